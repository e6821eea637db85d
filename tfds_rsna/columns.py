"""Which columns of a label table hold what: named by the user, or known by their headers."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from tfds_rsna.problems import DataError

# Headers that are understood where no column is named, in the form of `_plain`.
IDS = (
    'id',
    'image id',
    'imageid',
    'case id',
    'caseid',
    'study',
    'study id',
    'image',
    'file',
    'filename',
    'file name',
    'file path',
    'filepath',
    'image file',
    'image name',
    'image path',
    'path',
    'sop instance uid',
    'sopinstance uid',
)
# Of these, what names a file: beside another column of ids it says which image is meant.
FILES = IDS[IDS.index('image') : IDS.index('sop instance uid')]
# What may name a file, or something else: only beside ids, and where all cells are image files.
_NAMES = (
    'name',
    'nombre',
    'nom',
    'nome',
    'bild',
    'bildname',
    'dateiname',
    'datei',
    'archivo',
    'fichier',
    'arquivo',
    'img',
    'image index',
    'photo',
    'radiograph',
    'x ray',
    'xray',
    'ファイル名',
    '文件名',
    'файл',
)
# What a network of bone ages is trained on; the column `age` is that only where nothing else is.
BONE_AGES = (
    'ground truth bone age',
    'boneage',
    'bone age',
    'skeletal age',
    'knochenalter',
    'edad ósea',
    'edad osea',
    'idade óssea',
    'idade ossea',
    'âge osseux',
    'age osseux',
    'età ossea',
    'skelettalter',
    'botleeftijd',
    'skelettålder',
    'wiek kostny',
    'kemik yaşı',
    'костный возраст',
    '骨龄',
    '骨齡',
    '骨年齢',
)
AGES = ('months', 'age')
_SEXES = (
    'male,sex,gender,geschlecht,sexo,sexe,genre,sesso,geslacht,gênero,genero,género,kön,kjønn,køn,'
    'sukupuoli,płeć,pohlaví,spol,nem,cinsiyet,giới tính,jenis kelamin,jantina,φύλο,пол,性别,性別,'
    "성별,מין,الجنس,เพศ,लिंग,patient sex,patients sex,patient's sex,patient gender,sex of patient,"
    'sex at birth'
)
SEXES = tuple(_SEXES.split(','))
_BONE = re.compile(
    r'bone|skelet|skjelet|knochen|knogle|luusto|kostn|csont|tulang|xương|kemik|кост|кіст|οστικ|'
    r'\b[oó]s(ea|sea|seux|ssea)\b|\bben ?ålder|\b(ba|gp|greulich|tw[123])\b|'
    r'骨.{0,2}[龄齡齢]|골.?연령|뼈.?나이|กระดูก|עצמ|عظم'
)
# Whoever reads ages has a column of the own: what is in it is no other age of the child.
_READER = re.compile(
    r'(reader|rater|observer|radiologist|reviewer|reading|read|befunder)s? ?([0-9]|[a-d]\b|i+\b).*|'
    r'consensus|ground ?truth|gold standard|gt|mean (reading|of readers)'
)
_CHRONOLOGICAL = re.compile(r'chrono|actual|real|true age|birth')
# What is computed from a bone age and another number, or by another program, is no reading.
_DERIVED = re.compile(
    r'\b(sds?|z|z ?scores?|std|dev(iation)?|delay|retard\w*|advance\w*|acceleration|diff\w*|delta|'
    r'errors?|ratio|quotient|index|percentiles?|quality|confidence|method|date|predict\w*|pred)\b'
)
_UNITS = {
    'months': re.compile(
        r'\b(months?|mos?|monate?n?|mois|m[eê]s(es)?|mesi|maand(en)?|мес\w*|miesi\w*|měsíc\w*|'
        r'mån(ad(er)?)?|måned(er)?|kuukau\w*|kk|bulan|hónap\w*|luni|μήν\w*|місяц\w*|tháng)\b|'
        '月|개월|เดือน'
    ),
    'years': re.compile(
        r'\b(years?|yrs?|y|jahr(e|en)?|ans|années?|años?|anos?|ann[io]|jaar|лет|lata?|rok|yaş|yıl|'
        r'år|vuotta|vuosi\w*|tahun|ετών|έτη|χρόνια|років|roky?|évek?|ani)\b|岁|歳|세'
    ),
    'days': re.compile(
        r'\b(days?|weeks?|wks?|hours?|tagen?|wochen?|jours?|semaines?|d[ií]as?|semanas?|giorni|'
        r'settimane|dagen|weken|dni|tygodni\w*|дн\w*|недел\w*|dagar|veckor|uger|uker|gün|hafta)\b|'
        '日齢|日龄|週齢|周龄'
    ),
}
# What means a unit where nothing else stands: `(m)` behind a name, a cell of a column of units.
_SHORT = {
    'months': re.compile(r'm|mon|mth|mths|ay|か月|ヶ月|ヵ月|カ月'),
    'years': re.compile(r'j|an|y|yo|г|年'),
    'days': re.compile(r'd|w|wk|日|週|周|天'),
}
_UNIT_COLUMNS = (
    'unit',
    'units',
    'age unit',
    'age units',
    'unit of age',
    'unit age',
    'bone age unit',
    'boneage unit',
    'einheit',
    'unité',
    'unidad',
    'unidade',
    'unità',
    'eenheid',
    'enhet',
    'jednostka',
    '单位',
    '単位',
    '單位',
)
_GIRLS = ('female', 'is female', 'girl', 'weiblich')


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold what; `per_year` is 12 where ages are in years, 1 where in months.

    `months` or `male` is None where the table has no such column.
    """

    id: str
    months: str | None
    male: str | None
    image: str | None = None
    group: str | None = None
    source: str | None = None
    per_year: int = 1

    @property
    def named(self) -> dict[str, str]:
        """{what: column} of the columns that are named, in the order of the fields."""
        fields = ('id', 'months', 'male', 'image', 'group', 'source')
        return {key: getattr(self, key) for key in fields if getattr(self, key)}


def find_columns(
    header: Iterable[str], table: str = 'the table', named: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """The columns that hold `id`, `months` and `male` by their headers; None for one not found.

    The bone age comes before an age that is not called so. What stands in brackets is a note:
    `Bone age (months)`.

    Args:
        header: the columns of the table.
        table: the file, for messages.
        named: columns that the user named, which are taken as they are.

    Raises:
        DataError: two columns could be the age or the sex; names them and the flag that decides.
    """
    header = list(header)
    found: dict[str, str | None] = {}
    for key in ('id', 'months', 'male'):
        if named and named.get(key):
            found[key] = named[key]
        elif key == 'id':
            found[key] = _first(header, IDS)
        elif key == 'months':
            found[key] = _age(header, table)
        else:
            found[key] = _only(_all(header, SEXES), key, 'the sex', table)
    return found


def names_images(header: str) -> bool:
    """Whether a header is one of those by which the column of ids is known."""
    return _plain(header) in IDS


def names_files(header: str) -> bool:
    """Whether a header is that of a column of file names; `image` may be a number."""
    return _plain(header) in FILES and _plain(header) != 'image'


def may_name_files(header: str) -> bool:
    """Whether a header is that of a column of names, which may be those of files."""
    return _plain(header) in FILES or _plain(header) in _NAMES


def unit_of(header: str) -> str | None:
    """'months', 'years' or 'days', where a header says in which its ages are."""
    words = _split_words(header)
    for note in re.findall(r'[(\[]([^()\[\]]*)[)\]]', words):
        if _short_unit(note):
            return _short_unit(note)
    text = re.sub(r'[\s_.\-()\[\],:/]+', ' ', words)
    return next((unit for unit, words in _UNITS.items() if words.search(text)), None)


def has_two_units(header: str) -> bool:
    """Whether a header says years and months: `bone age (years.months)`, `(y;m)`."""
    words = _split_words(header)
    found = {unit for unit, known in _UNITS.items() if known.search(re.sub(r'[\W_]+', ' ', words))}
    for note in re.findall(r'[(\[]([^()\[\]]*)[)\]]', words):
        found |= {unit_in(word.replace('yy', 'y').replace('mm', 'm')) for word in _words(note)}
    return {'years', 'months'} <= found


def other_unit(header: Iterable[str], column: str) -> tuple[str, str] | None:
    """(column of years, column of months) of one age, one of which is `column`; else None.

    They have one name but for the unit.
    """
    units = {'years': 'months', 'months': 'years'}
    own = unit_of(column)
    for other in header:
        if own in units and unit_of(other) == units[own] and _no_unit(other) == _no_unit(column):
            return (column, other) if own == 'years' else (other, column)
    return None


def _no_unit(header: str) -> str:
    """What a header's name is without its unit, '' where it is one."""
    plain = _plain(header)
    return '' if unit_in(plain) else plain


def _words(text: str) -> list[str]:
    return re.findall(r'[^\W\d_]+', text)


def unit_in(cell: str) -> str | None:
    """'months', 'years' or 'days' where a cell is one of these words, or its letter; else None."""
    text = re.sub(r'[\s_.\-()\[\],:/]+', ' ', _split_words(cell)).strip()
    if re.search(r'\d', text):
        return None
    return next(
        (unit for unit, words in _UNITS.items() if words.fullmatch(text.removeprefix('in '))),
        _short_unit(text),
    )


def _short_unit(text: str) -> str | None:
    text = text.strip(' .')
    return next((unit for unit, words in _SHORT.items() if words.fullmatch(text)), None)


def unit_column(header: Iterable[str]) -> str | None:
    """The column that says in which unit each row's age is, None without one."""
    return next((column for column in header if _plain(column) in _UNIT_COLUMNS), None)


def girls_column(header: Iterable[str], male: str | None) -> str | None:
    """The column of the girls beside one of the boys (`male`, `female`, 1 or 0 in each)."""
    if male is None or _plain(male) not in ('male', 'boy', 'männlich'):
        return None
    return next((column for column in header if _plain(column) in _GIRLS), None)


def describe(columns: Columns) -> str:
    """Which column was taken for what, in words: "'id' for the image, 'sex' for the sex"."""
    unit = 'years' if columns.per_year == 12 else 'months'
    words = {
        'id': 'the id',
        'months': f'the age in {unit}',
        'male': 'the sex',
        'image': 'the file',
        'group': 'the patient',
        'source': 'the source',
    }
    parts = [f'{column!r} for {words[key]}' for key, column in columns.named.items()]
    text = ', '.join(parts)
    missing = [words[key] for key in ('months', 'male') if key not in columns.named]
    return text + f'; no column for {" and ".join(missing)}' if missing else text


def _age(header: Sequence[str], table: str) -> str | None:
    """The column of the label. `age` beside an unknown column of bone ages could be either."""
    known = _all(header, BONE_AGES)
    if known:
        by_unit = [column for column in known if unit_of(column) == 'months']
        return _only(by_unit if len(by_unit) == 1 else known, 'months', 'the bone age', table)
    ages = [column for column in _all(header, AGES) if not _CHRONOLOGICAL.search(_plain(column))]
    others = [column for column in header if _is_another_age(column)]
    told = any(_BONE.search(_plain(column)) for column in others)
    if others and (ages or told):
        return _only([*ages, *others], 'months', 'the bone age', table)
    return _only(ages, 'months', 'the bone age', table)


def _is_another_age(column: str) -> bool:
    plain = _plain(column)
    if _DERIVED.search(plain):
        return False
    if _BONE.search(plain) or _READER.fullmatch(plain):
        return True
    return 'age' in plain.split() and plain not in AGES and plain not in _UNIT_COLUMNS


def _only(found: Sequence[str], key: str, what: str, table: str) -> str | None:
    if len(found) > 1:
        raise DataError(
            f'{table}: {" and ".join(map(repr, found))} could each be {what}; name the column '
            f'that is meant: data.image_folder.{key}_column=...'
        )
    return found[0] if found else None


def _first(header: Sequence[str], names: Sequence[str]) -> str | None:
    by_name: dict[str, str] = {}
    for column in header:
        by_name.setdefault(_plain(column), column)
    return next((by_name[name] for name in names if name in by_name), None)


def _all(header: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for column in header if _plain(column) in names]


def _plain(header: str) -> str:
    """A header in small letters, without what stands in brackets, its unit and punctuation."""
    text = re.sub(r'\(.*?\)|\[.*?\]', ' ', _split_words(header))
    text = re.sub(r'[\s_.\-?:/,]+', ' ', text).strip()
    for words in (_UNITS['months'], _UNITS['years']):
        shorter = re.sub(r' (in|en|em)$', '', words.sub('', text).rstrip()).strip()
        text = shorter or text  # `months` alone stays
    return re.sub(r'^is (?=male\b)', '', text)


def _split_words(header: str) -> str:
    text = unicodedata.normalize('NFKC', header)
    return re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', text).casefold()
