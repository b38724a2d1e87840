"""Checks what people read: links, anchors, mentioned documents, length, and words that need translating.

The words are checked in pages, in scripts, and in Rust with its comments and names; words that a contract fixes are
exempt.

Prints a FILE:LINE for each fault and exits 1 if there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README_WORDS = 900
ALL_WORDS = 16_000

# Readers know the field's words; each of these needs a second reading. (pattern, what to write instead)
BANNED = [
    (r"trouble|troubles", "error, failure, or what is wrong"),
    (r"deed|deeds", "the revocation, the replay entry"),
    (r'(?<!=)nobody(?! "\$)', "the client, process or user that does not"),  # but for the system's user
    (r"blamed?", "the cause is"),
    (r"lately", "recently, or the interval"),
    (r"mend|mends|mended", "repair, fix"),
    (r"farewell|goodbye|good-bye", "drain, GOAWAY, close"),
    (r"patience", "timeout"),
    (r"sightings?", "observed log head"),
    (r"parcels?", "pending delivery"),
    (r"crowds?", "many clients"),
    (r"switchboard", "event loop, dispatcher"),
    (r"keeper|waiter", "reconciler, replica acknowledgement"),
    (r"stand-ins?", "fake, stub"),
    (r"believed?|believes", "accepted, trusted"),
    (r"forgets(?![\"`:])", "drops, loses"),  # but for the reason `forgets` of a metric
    (r"bears|borne", "has, contains"),
    (r"dearest", "most expensive"),
    (r"luck", "margin"),
    (r"wish|wishes", "request"),
    (r"told", "notified, configured: by what"),
    (r"hears|heard", "receives, received"),
    (r"look(s|ed)? after", "maintain, reconcile"),
    (r"seldom", "rarely"),
    (r"of use to", "useful"),
    (r"(?-i:is none)(?! \()", "is not one, does not exist"),
    (r"comes before it", "precedes it"),
    (r"cannot take", "rejects, failed to accept"),
    (r"cannot judge", "cannot check"),
    (r"may not go on", "no longer exists or is disabled"),
    (r"made no key", "key generation failed"),
    (r"is wrong now", "reload failed; keeping the previous one"),
    (r"is no setting", "unknown setting"),
    (r"there is nothing here", "not found"),
    (r"is not understood", "unsupported, malformed"),
]
BANNED_ANY = re.compile(
    "|".join(rf"(?P<w{at}>(?<![\w-])(?:{words})(?![\w-]))" for at, (words, _) in enumerate(BANNED)), re.I
)

# Names that Rust code had, and that a reader had to translate. (pattern, the name now)
RETIRED = [
    (r"[Dd]eeds?", "ReplayEntry, entry"),
    (r"[Ss]ightings", "LogObserver"),
    (r"[Pp]arcels?", "PendingDelivery, delivery"),
    (r"Waiter|waiter", "ReplicaAck"),
    (r"Trouble", "an …Error"),
    (r"[Cc]ables?", "FaultProxy"),
    (r"Patience", "ConnectionTimeouts"),
    (r"Gate|Door|Followed|Board", "Verifier, AttachListener, RevocationState, SegmentOffer"),
    (r"Judge|CannotJudge", "TokenChecker, Unavailable"),
    (r"Minter|Unmintable|Underivable", "TokenSigner, MintError, KeyDerivationError"),
    (r"Instants", "ClockReading"),
    (r"ForeignMessage|NotADuration", "UnknownMessage, DurationError"),
    (r"[Ss]witchboard|Crowd", "Forwarder, LoadedVerifier"),
    (r"FAREWELL|say_goodbye|hold_back|tell_ready|keep_watchdog_quiet", "see common/runtime/src/systemd.rs"),
]
RETIRED_ANY = re.compile("|".join(rf"(?P<w{at}>\b(?:{names})\b)" for at, (names, _) in enumerate(RETIRED)))

# Public types that may share a name, and why; all others mean one thing each.
TWICE = {
    "App": "each program's own",
    "Config": "each program's own",
    "ListenConfig": "each program's own",
    "Metrics": "each program's own",
    "OpenError": "each store's own",
    "Readiness": "each program's own",
    "Source": "each command line's own, and the feed's",
    "Span": "with and without the feature otel",
    "Traces": "with and without the feature otel",
}
PUBLIC_TYPE = re.compile(r"^\s*pub (?:struct|enum|trait|type|union) ([A-Z]\w*)", re.M)
NOT_PRODUCT = re.compile(r"(^|/)tests(/|\.rs$)|/simulation/|/examples/|/testing\.rs$")

# Documents that are not in the repository.
ELSEWHERE = re.compile(
    r"DESIGN\.md|(?<!\w)security\.md|findings\.md|review\.md|(?<!\.\./)\.\./shared\b|\bissue #?\d+\b"
)
THE_CONTRACT = re.compile(r"\bthe contract\b", re.I)
MENTION = re.compile(r"(?<![\w./<>*-])((?:[\w.-]+/)*[\w-]+\.md)\b(?!\w)")

# Names that others fix: the standard library's, the system's user, members of JSON documents, metric labels.
RUST_EXEMPT = re.compile(
    r"\bis_none\w*|\b(?:as_)?nobody\b(?=[`(=;,)])|\bNOBODY\b|\"trouble\"|\"forgets\"|scope is none", re.I
)

LINK = re.compile(
    r"""\]\(\s*<?([^()\s>]*)>?(?:\s+"[^"]*")?\s*\)|^\[[^\]]+\]:\s*(\S+)|\b(?:src|href|srcset)="([^"\s]+)""", re.M
)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
FENCE = re.compile(r"^( {0,6})(```+|~~~+).*?^ {0,6}\2`*[^\S\n]*$", re.M | re.S)
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.S)

Fault = tuple[str, int, str]


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def blank(match: re.Match[str]) -> str:
    """Nothing, in as many lines."""
    return re.sub(r"[^\n]", " ", match[0])


def line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def slugs(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: dict[str, int] = {}
    anchors = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for heading in HEADING.findall(FENCE.sub(blank, text)):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        again = found.get(slug, 0)
        found[slug] = again + 1
        anchors.add(f"{slug}-{again}" if again else slug)
    return anchors


def bad_links(page: str, text: str, pages: dict[str, str], names: set[str]) -> Iterator[Fault]:
    folders = {str(parent) for name in names for parent in Path(name).parents}
    prose = CODE_SPAN.sub(blank, FENCE.sub(blank, text))
    for match in LINK.finditer(prose):
        link = match[1] or match[2] or match[3] or ""
        if re.match(r"[a-z][a-z0-9+.-]*:", link) or link.startswith("//"):
            continue
        path, _, anchor = link.partition("#")
        target = page
        if path:
            full = (ROOT / page).parent.joinpath(path).resolve()
            target = str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else path
        if target not in names and target not in folders:
            yield page, line(text, match.start()), f"link to {link}: not in the repository"
        elif anchor and target in pages and anchor not in slugs(pages[target]):
            yield page, line(text, match.start()), f"link to {link}: {target} has no such heading"


def bad_mentions(name: str, text: str, names: set[str]) -> Iterator[Fault]:
    for match in ELSEWHERE.finditer(text):
        yield name, line(text, match.start()), f"{match[0]!r} is not in the repository"
    if name.endswith(".md"):
        for match in THE_CONTRACT.finditer(text):
            yield name, line(text, match.start()), "'the contract': name the page of this repository"
    for match in MENTION.finditer(text):
        path = re.sub(r"^(\.\./)+", "", match[1])
        beside = {path, str(Path(name).parent / path), f"docs/{path}"}
        if not beside & names and not ELSEWHERE.fullmatch(path):
            yield name, line(text, match.start()), f"{path} is not in the repository"


def banned_words(name: str, text: str) -> Iterator[Fault]:
    for match in BANNED_ANY.finditer(text):
        instead = BANNED[int((match.lastgroup or "w0")[1:])][1]
        yield name, line(text, match.start()), f"{match[0]!r}: write {instead}"


def rust_words(name: str, text: str) -> Iterator[Fault]:
    """Comments, texts and names alike: `told_apart` is read as two words."""
    yield from banned_words(name, RUST_EXEMPT.sub(blank, text).replace("_", " "))


def retired_names(name: str, text: str) -> Iterator[Fault]:
    for match in RETIRED_ANY.finditer(text):
        instead = RETIRED[int((match.lastgroup or "w0")[1:])][1]
        yield name, line(text, match.start()), f"{match[0]!r} is called {instead} now"


def names_twice(texts: dict[str, str]) -> Iterator[Fault]:
    """Public types of the product that have the name of another one."""
    first: dict[str, str] = {}
    for name, text in texts.items():
        if not name.endswith(".rs") or NOT_PRODUCT.search(name):
            continue
        code = text.split("#[cfg(test)]\nmod tests")[0]
        for match in PUBLIC_TYPE.finditer(code):
            other = first.setdefault(match[1], name)
            if other != name and match[1] not in TWICE:
                yield name, line(text, match.start()), f"{match[1]} is also a type of {other}: one name, one thing"


def is_script(name: str, text: str) -> bool:
    endings = (".py", ".pyi", ".sh", ".lua", ".conf", ".yaml")
    return name.endswith(endings) or text.startswith("#!") or name.startswith("deploy/")


def too_long(pages: dict[str, str]) -> Iterator[Fault]:
    words = {page: len(text.split()) for page, text in pages.items()}
    if words["README.md"] > README_WORDS:
        yield "README.md", 1, f"{words['README.md']} words; at most {README_WORDS}"
    if sum(words.values()) > ALL_WORDS:
        longest = ", ".join(sorted(words, key=lambda page: -words[page])[:5])
        yield "README.md", 1, f"all pages: {sum(words.values())} words; at most {ALL_WORDS}; the longest: {longest}"


def faults() -> Iterator[Fault]:
    names = set(tracked())
    texts = {}
    for name in sorted(names):
        try:
            texts[name] = (ROOT / name).read_text("utf-8")
        except UnicodeDecodeError:
            continue
    pages = {name: text for name, text in texts.items() if name.endswith(".md")}
    own = str(Path(__file__).resolve().relative_to(ROOT))
    for name, text in texts.items():
        if name == own or name.endswith((".lock", ".svg")):
            continue
        yield from bad_mentions(name, text, names)
        if name in pages:
            yield from bad_links(name, text, pages, names)
        if name in pages or is_script(name, text):
            yield from banned_words(name, text)
        elif name.endswith(".rs"):
            yield from rust_words(name, text)
        if name.endswith(".rs"):
            yield from retired_names(name, text)
    yield from names_twice(texts)
    yield from too_long(pages)


def main() -> None:
    found = list(faults())
    for name, at, what in found:
        print(f"{name}:{at}: {what}")
    print(f"docs: {len(found)} faults" if found else "docs: links, anchors, mentions, words and length are right")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
