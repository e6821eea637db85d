"""The values that single knobs may have, by dotted key: `config.check` refuses all others."""

from tfds_rsna import SOURCES

ONE_OF = {
    'trainer': ('gradient', 'classical'),
    'data.source': SOURCES,
    'data.on_error': ('stop', 'skip'),
    'data.resize': ('pad', 'stretch'),
    'data.sex': ('both', 'male', 'female'),
    'data.placement': ('host', 'device'),
    'data.image_folder.age_unit': ('months', 'years'),
    'data.image_folder.sex': ('', 'male', 'female'),
    'optimizer.name': ('sgd', 'adam', 'adamw'),
    'optimizer.schedule': ('constant', 'step', 'cosine', 'one_cycle', 'plateau'),
    'dtype': ('auto', 'float32', 'bfloat16'),
    'augment.fill': ('zero', 'nearest'),
    'cache_features': ('off', 'float16', 'float32'),
    'sharding': ('replicated', 'fsdp'),
}
AT_LEAST_1 = (
    'batch_size',
    'grad_accum_steps',
    'epochs',
    'eval_every_epochs',
    'data.train_repeats',
    'checkpoint_every_steps',
    'log_every_steps',
    'data.validation',
    'data.phantom.count',
    'optimizer.step_epochs',
    'optimizer.plateau_patience',
)
ZERO_OR_MORE = (
    'augment.rotation',
    'augment.shift',
    'augment.scale',
    'augment.gamma',
    'augment.brightness',
    'augment.exposure',
    'augment.blur',
    'augment.resolution',
    'optimizer.weight_decay',
    'optimizer.grad_clip_norm',
    'optimizer.backbone_rate',
    'optimizer.warmup_epochs',
    'patience',
    'turn_tta',
    'seed',
    'data.split_seed',
    'precise_bn_batches',
)
SHARES = (
    'augment.flip',
    'augment.contrast',
    'augment.polarity',
    'augment.occlusion',
    'augment.noise',
    'augment.compression',
)
BETAS = ('optimizer.momentum', 'optimizer.b2', 'ema')
SIZES = ('data.size', 'data.phantom.size')
