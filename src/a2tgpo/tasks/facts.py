"""Questions of two and three steps over tables of facts: countries with what is theirs, elements and who found them.

All that a question says of an entity is its name. Only names that one entity bears are asked about or asked for, and a
fact that several countries share is told in the documents but never asked for. So a question has one right answer, and
a country can be held out with all that is its own.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Currency:
    """A currency and its code."""

    name: str
    code: str


@dataclass(frozen=True)
class Country:
    """A country and what is known of it; `cities` are others than the capital, with their inhabitants."""

    name: str
    continent: str
    capital: str
    currency: Currency | None = None
    language: str | None = None
    cities: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Element:
    """A chemical element, who discovered it, and the name of the country where it was."""

    name: str
    symbol: str
    number: int
    discoverer: str | None = None
    country: str | None = None


@dataclass(frozen=True)
class Question:
    """A question, its accepted answers, and the titles of the documents that lead from one to the other."""

    text: str
    answers: tuple[str, ...]
    titles: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    """What can be asked of a country or an element, and the document that has it where its own has not."""

    what: str
    answers: tuple[str, ...]
    titles: tuple[str, ...] = ()


class Facts:
    """Documents and questions over `countries` and `elements`."""

    def __init__(self, countries: Sequence[Country], elements: Sequence[Element]) -> None:
        self._countries = {country.name: country for country in countries}
        self._elements = elements
        self._bearers = Counter(_plain(name) for name, _ in self._tell())

    def documents(self) -> dict[str, list[str]]:
        """The sentences of each document by its title. A name that several bear is that of the country, or of none."""
        return {name: text for name, text in self._tell() if self._is_one(name) or name in self._countries}

    def blocks(self) -> list[list[Question]]:
        """All questions, in blocks of those that lead through one country, or through an element that has none."""
        blocks = {name: list(self._about_country(country)) for name, country in self._countries.items()}
        for element in self._elements:
            home = element.country if element.country in self._countries else element.name
            blocks.setdefault(home, []).extend(self._about_element(element))
        return [block for block in blocks.values() if block]

    def _is_one(self, name: str | None) -> bool:
        """Whether one entity bears `name`."""
        return name is not None and self._bearers[_plain(name)] == 1

    def _tell(self) -> Iterator[tuple[str, list[str]]]:
        """Each entity's name and what is told of it; a country comes after what may have its name."""
        for element in self._elements:
            yield from _tell_element(element)
        for country in self._countries.values():
            yield from _tell_country(country)
        for country in self._countries.values():
            yield country.name, _tell_of_country(country)

    def _targets(self, country: Country) -> list[_Target]:
        targets = [_Target("capital", (country.capital,))] if self._is_one(country.capital) else []
        if self._is_one(country.language):
            targets.append(_Target("main language", (country.language,)))
        if country.currency is not None and self._is_one(country.currency.name):
            name, code = country.currency.name, country.currency.code
            targets += [_Target("currency", (name, code)), _Target("code of the currency", (code,), (name,))]
        return targets

    def _about_country(self, country: Country) -> Iterator[Question]:
        starts = {city: f"where {city} lies" for city in country.cities}
        starts[country.capital] = f"whose capital is {country.capital}"
        if country.currency is not None:
            starts[country.currency.name] = f"whose currency is the {country.currency.name}"
        if country.language is not None:
            starts[country.language] = f"whose main language is {country.language}"
        for start, said in starts.items():
            if self._is_one(start):
                yield from _ask(f"the country {said}", (start, country.name), self._targets(country))

    def _about_element(self, element: Element) -> Iterator[Question]:
        name = element.discoverer
        if not self._is_one(name) or not self._is_one(element.name):
            return
        targets = [_Target("symbol", (element.symbol,)), _Target("atomic number", (str(element.number),))]
        yield from _ask(f"the element that {name} discovered", (name, element.name), targets)
        if element.country in self._countries:
            targets = [target for target in self._targets(self._countries[element.country]) if not target.titles]
            where = f"the country where {name} discovered an element"
            yield from _ask(where, (name, element.name, element.country), targets)


def _ask(whose: str, titles: tuple[str, ...], targets: Iterable[_Target]) -> Iterator[Question]:
    """The questions for `targets`, but for those that say their answer."""
    for target in targets:
        text = f"What is the {target.what} of {whose}?"
        answers = tuple(dict.fromkeys(form for answer in target.answers for form in (answer, unaccented(answer))))
        path = (*titles, *target.titles)
        if not _words(answers) & _words([text]) and len(set(path)) == len(path):
            yield Question(text, answers, path)


def _tell_element(element: Element) -> Iterator[tuple[str, list[str]]]:
    numbered = f"the symbol {element.symbol} and the atomic number {element.number}"
    found = [f"It was discovered in {element.country}."] if element.country else []
    yield element.name, [f"{element.name} is the chemical element with {numbered}.", *found]
    if element.discoverer is not None:
        yield element.discoverer, [f"{element.discoverer} discovered the element {element.name}."]


def _tell_country(country: Country) -> Iterator[tuple[str, list[str]]]:
    yield country.capital, [f"{country.capital} is the capital of {country.name}."]
    for city, inhabitants in country.cities.items():
        yield city, [f"{city} is a city in {country.name}.", f"It has about {inhabitants:,} inhabitants."]
    if country.currency is not None:
        name, code = country.currency.name, country.currency.code
        yield name, [f"The {name} is the currency of {country.name}.", f"Its code is {code}."]
    if country.language is not None:
        yield country.language, [f"{country.language} is the main language of {country.name}."]


def _tell_of_country(country: Country) -> list[str]:
    """It says the name often, so that a search for it alone finds this document before those of its cities."""
    name = country.name
    sentences = [f"{name} is a country in {country.continent}, and the capital of {name} is {country.capital}."]
    if country.currency is not None:
        sentences.append(f"The currency of {name} is the {country.currency.name}.")
    if country.language is not None:
        sentences.append(f"The main language of {name} is {country.language}.")
    return sentences


def unaccented(text: str) -> str:
    """`text` without accents: `Bogotá` is `Bogota`."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _plain(name: str) -> str:
    return unaccented(name).casefold()


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text.casefold())}
