"""Currencies: the signs, codes (ISO 4217) and words that name them, and amounts with or without them."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ISO_4217 = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF
CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD
HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD
MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN
PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY
TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG
"""
_CODES = frozenset(_ISO_4217.split())
# Names shared by several currencies; any other sign or code names a single one.
_SHARED = """
USD AUD BBD BMD BND BSD BZD CAD FJD GYD HKD JMD KYD LRD NAD NZD SBD SGD SRD TTD TWD XCD: dollar buck
ARS CLP COP CUP DOP MXN PHP UYU: peso
EUR: € euro
GBP EGP FKP GIP LBP SDG SHP SSP SYP: £ quid sterling
JPY CNY: ¥
JPY: yen 円
CNY: yuan renminbi rmb 元 圆 人民币
KRW KPW: ₩ won 원
INR LKR MUR NPR PKR SCR: ₨ rupee rs re
INR: ₹
SEK NOK DKK ISK: kr krone kroner krona kronor
CZK: kč koruna
PLN: zł zloty
RUB BYN: ruble rouble
RUB: ₽
TRY: ₺ lira
ILS: ₪ shekel nis
UAH: ₴ hryvnia
KZT: ₸ tenge
VND: ₫ dong
THB: ฿ baht
NGN: ₦ naira
PHP: ₱
CHF XAF XOF XPF RWF: fr franc
ZAR: rand
MYR: rm ringgit
IDR: rp rupiah
BRL: r$ rdollar
TWD: nt$ ntdollar
"""
_NAMES: dict[str, frozenset[str]] = {}
for _line in _SHARED.strip().splitlines():
    _those, _, _words = _line.partition(":")
    _NAMES |= {word: _NAMES.get(word, frozenset()) | frozenset(_those.split()) for word in _words.split()}
_NAMES["$"] = _NAMES["dollar"] | _NAMES["peso"]

_SIGNS = "".join(c for c in map(chr, range(0x25, 0x10000)) if unicodedata.category(c) == "Sc" and c != "¢")
_SIGN = rf"(?:[A-Z][A-Za-z]{{0,2}}|[A-Z]{{2}} )?(?:\\?\$|[{_SIGNS}])"
_LETTERS = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion", "mn": "million"}
_LETTERS |= {"mln": "million", "bn": "billion", "bln": "billion", "tn": "trillion"}
_AMOUNT = (
    r"(?P<number>[-+]?(?:(?:[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?)"
    rf"(?P<scale>\s?(?:hundred|thousand|lakh|crore|[a-z]{{1,6}}illion)(?![A-Za-z])|(?:{'|'.join(_LETTERS)})(?![A-Za-z]))?"
)
_BEFORE = re.compile(rf"(?<![\w$\\}}^*/+])(?P<name>{_SIGN}|[A-Za-z]{{2,3}}\.?)\s*{_AMOUNT}")
_BEHIND = re.compile(rf"(?<![\w.,]){_AMOUNT}\s*(?P<name>{_SIGN})(?![A-Za-z])")
_ENDS = re.compile(r"\s*(?:$|[,;:.!?)\]}=]|(?:and|or)\b|\\text)")
_IN_FONT = re.compile(
    rf"\\(?:text|textrm|mathrm|mbox)\s*\{{\s*(?:({_SIGN})|([A-Za-z]{{2,3}})\.?)\s*\}}(?(2)(?=\s*[-+]?[\d.]))"
)
_MATHS = re.compile(r"(?<!\\)\$(?=\S)((?:[^$\\]|\\[^$])*)(?<=[^\s\\])\$(?!\d)")
_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]+")
_LEFT = re.compile(rf"\\?\$|[{_SIGNS}]")
_MAY_NAME = re.compile(r"[$¢]|[^\W\d_]{2}|[^\x00-\x7f]")


@lru_cache(maxsize=4096)
def codes(name: str) -> frozenset[str]:
    """Return the currencies that a sign, code or word may mean; none if it does not name money."""
    if name in _CODES:
        return frozenset((name,))
    low = re.sub(r"[\\ ]", "", name).casefold()
    if found := _NAMES.get(low) or _NAMES.get(low.removesuffix("s")):
        return found
    area, sign = (low[:-6], "$") if low.endswith("dollar") else (low[:-1], low[-1:])
    if sign not in ("$", *_SIGNS):
        return frozenset()
    known = _NAMES.get(sign, frozenset())  # that of a region, e.g. HK$, has its code
    return frozenset(code for code in known if code.startswith(area.upper())) or frozenset((low,))


@lru_cache(maxsize=4096)  # one answer is compared with many
def currencies(text: str) -> frozenset[str]:
    """Return all currencies that a text names, and `cent` if it counts in hundredths of one."""
    if not _MAY_NAME.search(text) or not any(char.isdigit() for char in text):
        return frozenset()
    text = _MATHS.sub(r"\1", text)
    names = [match[0] for match in re.finditer(_SIGN, text)] + _WORD.findall(text)
    cents = {"cent"} if "¢" in text or not {"cent", "cents"}.isdisjoint(names) else set()
    return frozenset(cents).union(*(codes(name) for name in names))


def differ(left: frozenset[str], right: frozenset[str]) -> bool:
    """Return whether two amounts are in different currencies, so that their numbers alone mean nothing."""
    return bool(left and right) and (left.isdisjoint(right) or ("cent" in left) != ("cent" in right))


def spelt(text: str, *, kept: bool) -> str:
    r"""Remove the currencies from the amounts of a text; `kept` makes them units, `€29` is `29\text{ €}`."""

    def amount(match: re.Match[str]) -> str:
        name = match["name"].rstrip(".").replace("\\", "")
        if not codes(name):
            return match[0]
        scale = match["scale"] or ""
        number = match["number"].replace(",", "") + (f" {_LETTERS[scale]}" if scale in _LETTERS else scale)
        unit = name.replace("$", "dollar")
        return rf"{number}\text{{ {unit}}}" if kept and _ENDS.match(text, match.end()) else number

    if "$" in text:
        text = _MATHS.sub(r"\1", text)
    text = _IN_FONT.sub(lambda m: f" {m[1] or m[2]} " if codes(m[1] or m[2]) else m[0], text)
    for pattern in (_BEFORE, _BEHIND):
        text = pattern.sub(amount, text)
    return re.sub(r"\\?\$", "", text) if kept else _LEFT.sub("", text)
