"""`--where`: comparisons over metrics columns, as people type them, to a pyarrow expression.

    psnr_db < 33 and codec = 'cnn'      status != "rejected" and (width > 4000 or height > 4000)
    codec in ('webp', 'jxl')            reason is not null          source_uri like '%/2026/%'

Words are case-insensitive; strings stand in quotes. Nothing here evaluates code.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|-?\.\d+)|(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,))"
)
_ZONE = re.compile(r"\d\d:.*(Z|[+-]\d\d:?\d\d)$")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def where(text: str, schema: pa.Schema) -> pc.Expression:
    """`text` as a filter for tables of `schema`; ConfigError says what was not understood."""
    parser = _Parser(text, schema)
    expression = parser.any_of()
    if parser.peek is not None:
        raise parser.problem("the end")
    return expression


class _Parser:
    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text, self._schema = text, schema
        self._tokens, self._at = self._split(text), 0

    @property
    def peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def problem(self, expected: str) -> ConfigError:
        found = "nothing" if self.peek is None else repr(self.peek)
        example = "an expression such as \"psnr_db < 33 and codec = 'cnn'\""
        return ConfigError(f"--where {self._text!r}: found {found}, expected {expected}; write {example}")

    def any_of(self) -> pc.Expression:
        left = self._all_of()
        while self._took("or"):
            left = left | self._all_of()
        return left

    def _all_of(self) -> pc.Expression:
        left = self._one()
        while self._took("and"):
            left = left & self._one()
        return left

    def _one(self) -> pc.Expression:
        if self._took("not"):
            return ~self._one()
        if self._took("("):
            inside = self.any_of()
            self._need(")")
            return inside
        return self._comparison()

    def _comparison(self) -> pc.Expression:
        name = self._column()
        column = pc.field(name)
        if self._took("is"):
            negated = self._took("not")
            self._need("null")
            return column.is_valid() if negated else column.is_null()
        negated = self._took("not")
        if self._took("in"):
            found = column.isin(pa.array([self._cast(name, value) for value in self._list()]))
        elif self._took("like"):
            found = pc.match_like(column, str(self._literal()))
        elif not negated and self.peek in _COMPARE:
            return _COMPARE[self._next()](column, self._value(name))
        else:
            raise self.problem("a comparison (=, !=, <, <=, >, >=, in, like, is null)")
        return ~found if negated else found

    def _column(self) -> str:
        if self.peek in self._schema.names:
            return self._next()
        raise self.problem(f"one of the columns {', '.join(self._schema.names)}")

    def _list(self) -> list[Any]:
        self._need("(")
        values = [self._literal()]
        while self._took(","):
            values.append(self._literal())
        self._need(")")
        return values

    def _value(self, name: str) -> pa.Scalar:
        return self._cast(name, self._literal())

    def _cast(self, name: str, value: Any) -> pa.Scalar:
        """`value` in the type of its column, so that times can be compared with text."""
        kind = self._schema.field(name).type
        try:
            if pa.types.is_timestamp(kind) and isinstance(value, str) and not _ZONE.search(value):
                value += "T00:00Z" if len(value) == 10 else "Z"  # times without a zone are UTC, as stored
            return pa.scalar(value).cast(kind)
        except pa.ArrowException:
            self._at -= 1
            raise self.problem(f"a value of type {kind} for {name}") from None

    def _literal(self) -> Any:
        token = self.peek or ""
        if token[:1] in ("'", '"'):
            quote = token[0]
            return self._next()[1:-1].replace(quote * 2, quote)
        try:
            value = int(token) if token.lstrip("-").isdigit() else float(token)
        except ValueError:
            raise self.problem("a number or a quoted string") from None
        self._at += 1
        return value

    def _took(self, word: str) -> bool:
        if self.peek is not None and self.peek.lower() == word:
            self._at += 1
            return True
        return False

    def _need(self, word: str) -> None:
        if not self._took(word):
            raise self.problem(repr(word))

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    @staticmethod
    def _split(text: str) -> Sequence[str]:
        tokens, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise ConfigError(f"--where {text!r}: {text[at:].strip()[:20]!r} is not understood; quote strings")
            tokens.append(match.group().strip())
            at = match.end()
        return tokens
