"""Flags and refusals in plain words, for whoever has not read the guide."""

import re

FLAGS = {
    'inverted': 'It is a negative: its bones were dark, and were made bright.',
    'turned_90': 'The hand lay on its side: the image was turned by a quarter.',
    'turned_180': 'The hand was upside down: the image was turned round.',
    'turned_270': 'The hand lay on its side: the image was turned by a quarter.',
    'way_up_unsure': 'Which way is up could not be told: the image was left as it is.',
    'several_hands': 'There is more than one hand. The age is of the whole image: cut it to one.',
    'second_hand': 'There is a second hand. The larger one was taken.',
    'cut_off': 'The image ends before the fingers do: the age may be off.',
    'low_resolution': 'So few pixels that growth plates can hardly be seen.',
    'low_contrast': 'So little contrast that bones can hardly be told from flesh.',
    'saturated': 'Much of the hand is plain white or black: bone may be hidden.',
    'no_hand': 'No whole hand was found.',
    'sex_contradicts_header': 'The header of the file gives the other sex.',
    'damaged_beside_pixels': 'The file is damaged beside its pixels, which are whole.',
    'window_ignored': 'The display window of the header shows nothing, so it was ignored.',
    'stretched': 'Hardly any contrast as stored: the greys were stretched.',
    'few_grey_levels': 'Few grey levels are used: they were spread.',
    'first_of_several_pages': 'The file has several pages. The first was taken.',
    'inner_page_taken': 'The file shows a small preview first. The image inside it was taken.',
    'jpeg_without_end': 'The file is without its end: its lowest rows may be missing.',
    'pixels_made_square': 'Its pixels were not square, as its header says: they were made so.',
    'mask_doubtful': 'The outline of the hand is doubtful.',
    'points_doubtful': 'The key points of the hand are doubtful.',
    'registered_by_mask': 'Without usable key points, the hand was set upright by its outline.',
    'registered_by_none': 'The hand could not be set upright: the image was taken as it is.',
}
_GUESSED = 'The header is of no use in one place, and the pixels decided'
FAULT = 'a fault of the program: please report it, without the image'
SEX_NEEDED = 'the sex is not known, and this network needs it: choose girl or boy'
FAR = 'Unlike the images that the network learnt from: its age means little here.'
TRAINED_ON = (
    'The network was trained on an image of this name. If it is the same, its age is recalled, not '
    'predicted.'
)
FARTHEST = 0.99  # share of training images beyond which an image is unlike them
# What belongs to a config or a command, not to a page.
_ADVICE = re.compile(r',? or drop it \(data\.on_error=skip\)|\s*\(data\.on_error=skip\)')


def of_flags(flags: str) -> list[str]:
    """A sentence for each of the flags of a row, `a;b: reason`; an unknown one by its name."""
    told = []
    for flag in filter(None, flags.split(';')):
        name, _, reason = flag.partition(': ')
        sentence = FLAGS.get(name)
        if sentence is None:
            kind = name.replace('_', ' ')
            sentence = f'{_GUESSED} ({kind}).' if name.endswith(UNUSED) else f'{kind}.'
        told.append(f'{sentence[:-1]}: {reason}.' if reason else sentence)
    return told


UNUSED = ('_guessed', '_ignored')


def of_reason(reason: str, file: str) -> str:
    """Why an image is not predicted, as a page says it."""
    return _ADVICE.sub('', reason.removeprefix(f'{file}: '))


def of_other_sex(trained_on: str) -> str:
    """Why an image is refused by a network that has seen one sex alone."""
    return f'this network was trained on {trained_on} images alone, and this is another'
