"""What the values of a sex column mean: read from the values and the header together, or refused.

Words (`male`, `mujer`, `weiblich`) speak for themselves. Letters mean what the other letter of the
column makes of them: M is a boy beside F and W, a girl beside H (hombre, mujer) and J (Junge,
Mädchen). Numbers and answers (1 and 0, yes and no) mean what the header says: `male`, `sex (0=male,
1=female)`, `sex_m0_f1`.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping

from tfds_rsna.problems import DataError

_MALE_WORDS = (
    'male males boy boys man masculine masc männlich maennlich mann junge knabe hombre niño '
    'nino varón varon masculino masculin masculine homme garçon garcon maschio maschile uomo '
    'homem menino rapaz jongen mannelijk mand dreng pojke gutt mies poika mężczyzna chłopiec '
    'muž mužský chlapec fiú férfi bărbat băiat masculin muški dječak moški fant erkek nam '
    'lelaki άρρεν αγόρι άνδρας мужской мужчина мальчик муж 男 男性 男子 男生 男孩 남 남성 '
    '남자 남아 ذكر ولد זכר בן ชาย पुरुष ♂ xy chico mâle'
)
_FEMALE_WORDS = (
    'female females girl girls woman feminine fem weiblich frau mädchen maedchen mujer niña '
    'nina hembra femenino feminino féminin feminin femme fille femmina femminile donna '
    'mulher menina meisje vrouw vrouwelijk kvinde kvinna kvinne pige flicka jente nainen '
    'tyttö kobieta dziewczynka žena ženský dívka lány nő femeie fată ženski djevojčica '
    'ženska kadın kadin kız nữ perempuan θήλυ κορίτσι γυναίκα женский женщина девочка жен 女 '
    '女性 女子 女生 女孩 여 여성 여자 여아 أنثى بنت נקבה בת หญิง महिला ♀ xx chica femelle'
)
# (boy, girl) of single letters, as the languages that write them have it.
_PAIRS = (
    ('m', 'f'),
    ('m', 'w'),
    ('h', 'm'),
    ('h', 'f'),
    ('j', 'm'),
    ('b', 'g'),
    ('g', 'f'),
    ('m', 'k'),
    ('m', 'v'),
    ('v', 'm'),
    ('v', 'h'),
    ('k', 'm'),
    ('d', 'p'),
    ('p', 'f'),
    ('g', 'j'),
    ('p', 't'),
    ('m', 'z'),
    ('m', 'ž'),
    ('e', 'k'),
    ('l', 'p'),
    ('м', 'ж'),
    ('ז', 'נ'),
)
# Letters that mean the same in every pair that has them.
_ALONE = {'f': False, 'w': False, 'b': True, 'ж': False, 'м': True}
_ENGLISH = {'sex', 'gender', 'male', 'boy', 'man', 'm'}
# A code and its meaning, as in `F = female`.
_DEFINITION = re.compile(r'(?<!\w)([^\W_])\s*[=:]\s*["\']?([^\W\d_]{2,})')
_YES = {'true', 't', 'yes', 'y', 'ja', 'si', 'sí', 'oui', 'wahr', 'vrai', 'verdadero', 'vero'}
_NO = {'false', 'no', 'nein', 'non', 'falsch', 'faux', 'falso', 'onwaar'}
_YES |= {'waar', 'sim', 'tak', 'да', '是', 'はい', 'verdadeiro', 'истина'}
_NO |= {'nej', 'não', 'nie', 'нет', '否', 'いいえ', 'ложь'}
_NUMBERS = {'0', '1', '2'}
# Words of a header that change nothing.
_FILLERS = (
    'is sex gender sexo sexe sesso geschlecht geslacht patient patients child childs the of '
    'a s flag bool boolean binary indicator code coded encoded numeric id col column and or '
    'vs to for means equals gênero genero género genre kön kjønn køn sukupuoli płeć pohlaví '
    'cinsiyet пол 性别 性別 성별 φύλο spol'
)
# What turns a header round where no word does.
_NOT = re.compile(r'[!~¬≠]')
_NAMED = dict.fromkeys(_MALE_WORDS.split(), True) | dict.fromkeys(_FEMALE_WORDS.split(), False)


def _without_accents(text: str) -> str:
    apart = unicodedata.normalize('NFD', text)
    return ''.join(letter for letter in apart if not unicodedata.combining(letter))


# Words as people type them without their accents; short ones may mean something else then (nő).
for _word, _male in list(_NAMED.items()):
    if len(_word) > 3:
        _NAMED.setdefault(_without_accents(_word), _male)
_BOYS = {'ismale', 'isboy', *_MALE_WORDS.split()}


def meanings(
    header: str, values: Iterable[str], table: str, legend: Iterable[str] = ()
) -> dict[str, bool]:
    """{value in `normal` form: whether it is male} of the values of a column that can be told.

    Values that nothing explains are left out: '?', 'unknown', 'x'.

    Args:
        header: of the column.
        values: of all its rows.
        table: the file, for messages.
        legend: other texts of the table that may say what a code means: `F = male`, `1: girl`.

    Raises:
        DataError: numbers or answers under a header that does not say whom they mean, letters that
            mean a boy in one language and a girl in another, or that contradict the words beside,
            or codes that two places give different meanings.
    """
    values = list(values)
    found = {normal(value) for value in values} - {''}
    known = {value: male for value in found if (male := _worded(value)) is not None}
    letters = {value for value in found if len(value) == 1 and value.isalpha()} - set(known)
    answers = found & (_NUMBERS | _YES | _NO)
    if letters & {'t', 'y'} and not letters <= {'t', 'y', 'n', 'f'}:
        answers -= letters  # P and T are boys and girls in Finland
    elif letters and letters <= {'t', 'y', 'n', 'f'} and letters & {'t', 'y'}:
        answers |= letters  # t and f, y and n
    letters -= answers
    stated = _with_legend(_stated(header), [*values, *legend], header, table)
    if answers:
        known |= _answers(header, answers, stated, table)
    if letters:
        known |= _letters(header, letters, known, stated, table)
    return known


def _with_legend(
    stated: dict[str, bool], texts: Iterable[str], header: str, table: str
) -> dict[str, bool]:
    """`stated` with the codes that `texts` define, as in `1 = male, 2 = female`."""
    stated = dict(stated)
    for text in {text for text in texts if '=' in text or ':' in text}:
        for code, word in _DEFINITION.findall(unicodedata.normalize('NFC', text).casefold()):
            male = _NAMED.get(word)
            if male is not None and stated.setdefault(code, male) != male:
                raise DataError(
                    f'{table}: {text!r} contradicts what else the table says of {code.upper()} in '
                    f'column {header!r}. Write male and female'
                )
    return stated


def is_word(text: str) -> bool:
    """Whether a text is a word for boys or girls and nothing else: `Boys`, `Girls (n=12):`."""
    word = normal(re.sub(r'\(.*?\)', '', text).strip(' :'))
    return len(word) > 1 and word in _NAMED


def normal(value: str) -> str:
    """A value as it is compared: small letters, one form of accents and of digits, 1.0 as 1, no
    full stop.
    """
    text = (
        unicodedata.normalize('NFKC', value)
        .strip('\ufe0e\ufe0f')
        .strip()
        .strip('\'"')
        .casefold()
        .rstrip('.')
    )
    return re.sub(r'^\+?0*(\d+)([.,]0+)?$', r'\1', text)


def of_word(value: str) -> bool | None:
    """Whether a word means male (`Female`, `mujer`); None for letters, numbers and what is none."""
    return _worded(normal(value))


def _worded(value: str) -> bool | None:
    """What a value's only word means: `male`, `1 - male`, `male (m)`; None without such a word."""
    if value in _NAMED:
        return _NAMED[value]
    words = re.findall(r'[^\W\d_]+', value)
    named = {_NAMED[word] for word in words if word in _NAMED}
    others = {word for word in words if word not in _NAMED}
    initials = {word[0] for word in words if word in _NAMED}
    if len(named) == 1 and others <= initials and not _NOT.search(value):
        return named.pop()
    return None


def _letters(header, letters, known, stated, table):
    """The meanings of single letters; those that no pair has, such as X and U, are left out."""
    if letters & stated.keys():
        return {letter: stated[letter] for letter in letters & stated.keys()}
    # A word is its letter too: beside `hombre`, M is a girl. So are the letters of `sexo (H/M)`.
    initials = {word[0]: male for word, male in known.items() if word.isalpha()}
    in_header = {word for word in _tokens(header) if len(word) == 1 and word.isalpha()}
    beside = initials.keys() | (in_header if len(in_header) > 1 else set())
    told = _by_pairs(letters | beside)
    if told is None:  # the words decide: beside `girl`, G is no garçon
        told = _by_pairs(letters | beside, initials)
    if told == {}:
        told = _alone(header, letters)
    if told is None:
        shown = ' and '.join(sorted(letter.upper() for letter in letters))
        raise DataError(
            f'{table}: column {header!r} holds {shown}, which does not say who is male: letters '
            'mean boys in one language and girls in another. Write male and female, or say it in '
            f'the header, as in {_example(letters)!r}'
        )
    for initial, male in initials.items():
        if told.get(initial, male) != male:
            raise DataError(
                f'{table}: column {header!r} holds words and letters that contradict each other: '
                f'{", ".join(sorted(known))} beside {", ".join(sorted(letters))}. Write male and '
                'female'
            )
    return {letter: told[letter] for letter in letters if letter in told}


def _example(letters):
    first, *others = sorted(letters)
    text = f'sex ({first.upper()}=male, '
    return text + (f'{others[0].upper()}=female)' if others else 'the other=female)')


def _by_pairs(letters: set[str], known: Mapping[str, bool] | None = None) -> dict[str, bool] | None:
    """The meanings of the letters that the pairs among them give; None where these differ.

    Pairs that say otherwise of a letter that is `known` do not count.
    """
    known = known or {}
    told: dict[str, bool] = {}
    for boy, girl in _PAIRS:
        if boy not in letters or girl not in letters:
            continue
        if not known.get(boy, True) or known.get(girl, False):
            continue
        if not told.setdefault(boy, True) or told.setdefault(girl, False):
            return None
    return told


def _alone(header: str, letters: set[str]) -> dict[str, bool] | None:
    """The meanings of letters without their other half; None for one that needs it."""
    told = {}
    for letter in letters:
        if letter in _ALONE:
            told[letter] = _ALONE[letter]
        elif letter == 'm' and set(_tokens(header)) & _ENGLISH:
            told[letter] = True
    paired = {letter for pair in _PAIRS for letter in pair}
    if len(told) > 1 and len(set(told.values())) == 1:
        return None  # two letters are two sexes
    return told if told or not letters & paired else None


def _answers(header, answers, stated, table):
    """The meanings of numbers and of yes and no."""
    if answers <= stated.keys():
        return {answer: stated[answer] for answer in answers}
    numbers = stated.keys() & _NUMBERS
    if len(numbers) == 1 and answers <= _NUMBERS and len(answers | numbers) == 2:
        only = next(iter(numbers))
        return {answer: stated[only] == (answer == only) for answer in answers}
    if not numbers and _asks_for_boys(header) and '2' not in answers:
        return {answer: answer == '1' or answer in _YES for answer in answers}
    shown = ' and '.join(sorted(answers)[:3])
    raise DataError(
        f'{table}: column {header!r} holds {shown}, which does not say who is male. Write male and '
        'female, or say it in the header: '
        "'sex (0=female, 1=male)', or 'male' where the boys have 1"
    )


def _asks_for_boys(header: str) -> bool:
    """Whether yes and no answer the header: it names boys, and nothing that turns it round."""
    words = _tokens(header)
    boys = [word for word in words if word in _BOYS or word == 'm']
    if _NOT.search(header) or len(boys) > 1:
        return False
    others = [word for word in words if word not in boys and word not in _FILLERS.split()]
    return bool(boys) and (not others or _says_yes_is_one(others))


def _says_yes_is_one(words):
    """Whether words list yes and no alone: `(yes/no)`, `(1/0)`, `(1=yes, 0=no)`."""
    numbers = [word for word in words if word in ('0', '1')]
    texts = [word for word in words if word in _YES | _NO or word in ('y', 'n', 'f')]
    if len(numbers) + len(texts) != len(words) or len(numbers) not in (0, 2):
        return False
    if not numbers or not texts:
        return len(words) == 2
    pairs = list(zip(numbers, texts))
    return len(texts) == 2 and all((number == '1') == (text in _YES) for number, text in pairs)


def _stated(header: str) -> dict[str, bool]:
    """What a header says of codes: `sex (0=male, 1=female)` -> {'0': True, '1': False}.

    A code is a number or a letter; it stands before or behind its word, all alike. {} where the
    header says nothing of the kind, or contradicts itself.
    """
    words = [word for word in _tokens(header) if word not in _FILLERS.split()]
    letters = {word for word in words if len(word) == 1 and word.isalpha()}
    named = dict(_NAMED)
    pairs = _by_pairs(letters - _NAMED.keys())
    if pairs and len(letters) == 2:
        named |= pairs
    for code_first in (True, False):
        stated = _alternating(words, named, code_first)
        if stated:
            return stated
    return {}


def _alternating(words, named, code_first):
    if not words or len(words) % 2:
        return {}
    stated = {}
    for first, second in zip(words[::2], words[1::2]):
        code, word = (first, second) if code_first else (second, first)
        is_code = code in _NUMBERS or (len(code) == 1 and code.isalpha() and len(word) > 1)
        if not is_code or word not in named or stated.get(code, named[word]) != named[word]:
            return {}
        stated[code] = named[word]
    # Two codes of one sex say nothing of the other.
    return stated if len(stated) == 1 or len(set(stated.values())) == 2 else {}


def _tokens(header: str) -> list[str]:
    """The words and numbers of a header; `isMale` and `m0` are two each."""
    text = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', unicodedata.normalize('NFC', header))
    return re.findall(r'[^\W\d_]+|\d+', text.casefold())
