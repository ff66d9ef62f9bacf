"""What clients asked and heard, with times, and whether that is what a service owes them.

A history is checked as a whole: every request ends exactly once, its text has no gap and no repeat (it is the text of
the same request served in peace), its usage counts the tokens that were sent, and nobody hears a word of another
tenant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

LOGPROB_SLACK = 1e-3  # chunks of another size change the order of sums in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of a client."""

    name: str  # requests of one name have one answer
    body: dict
    path: str = "/v1/completions"
    key: str = ""  # API key
    marker: str = ""  # words of this tenant's prompt that nobody else may hear
    may_end_badly: bool = False  # a terminal error is an answer too
    may_be_refused: bool = False  # so is 429 or 503 with Retry-After
    leaves_after: int | None = None  # the client closes its connection after that many events
    pause: float = 0.0  # seconds between two reads of a slow reader

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def num_choices(self) -> int:
        return self.body.get("n") or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something heard: a server-sent event's data, or a whole answer."""

    at: float  # seconds, monotonic
    data: str


@dataclass(slots=True, kw_only=True)
class Heard:
    """What came back for one request, in order."""

    asked: Asked
    began: float
    status: int = 0  # 0: no answer
    headers: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    is_whole: bool = False  # the answer's transport ended as it should
    did_leave: bool = False
    ended: float = 0.0
    trouble: str = ""  # of the connection

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def is_refusal(self) -> bool:
        return self.status in (429, 503)

    @property
    def longest_gap(self) -> float:
        """Seconds between two pieces of the answer, or before the first."""
        times = [self.began, *(event.at for event in self.events)]
        return max((after - before for before, after in pairwise(times)), default=0.0)


@dataclass(slots=True, kw_only=True)
class Choice:
    """One choice as its client put it together."""

    text: str = ""
    reasons: list[str] = field(default_factory=list)
    stop_reason: object = None
    tokens: list[str] = field(default_factory=list)  # only with logprobs
    logprobs: list[float] = field(default_factory=list)


class Answer:
    """The events of one request read as the protocol says; what breaks the protocol is in `problems`."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self.problems: list[str] = []
        self.choices: dict[int, Choice] = {}
        self.usages: list[dict] = []
        self.errors: list[str] = []
        self.num_done = 0
        self._heads: set[tuple[object, object, object]] = set()
        for event in heard.events:
            self._take(event.data)

    @property
    def num_tokens(self) -> int:
        """As the last usage says."""
        return self.usages[-1]["completion_tokens"] if self.usages else 0

    @property
    def num_endings(self) -> int:
        """Terminal events: the end of the stream, a whole answer, or an error."""
        if self.heard.asked.is_stream and self.heard.status == 200:
            return max(self.num_done, len(self.errors))
        return int(self.heard.is_whole and len(self.heard.events) == 1)

    def _take(self, data: str) -> None:
        if self.num_done:
            self.problems.append(f"an event after the end: {data[:80]}")
        if data == "[DONE]":
            self.num_done += 1
            return
        try:
            event = json.loads(data)
        except ValueError:
            self.problems.append(f"an event that is no JSON: {data[:80]!r}")
            return
        if self.errors:
            self.problems.append(f"an event after an error: {data[:80]}")
        if "error" in event:
            self.errors.append(str(event["error"].get("message", event["error"])))
            return
        self._heads.add((event.get("id"), event.get("created"), event.get("model")))
        if len(self._heads) == 2:
            self.problems.append(f"the answer changed its name: {sorted(map(str, self._heads))}")
        self._take_usage(event.get("usage"))
        for choice in event.get("choices", ()):
            self._take_choice(choice)

    def _take_usage(self, usage: dict | None) -> None:
        if usage is None:
            return
        if self.usages and usage["completion_tokens"] < self.usages[-1]["completion_tokens"]:
            self.problems.append(f"usage fell from {self.usages[-1]} to {usage}")
        self.usages.append(usage)

    def _take_choice(self, part: dict) -> None:
        choice = self.choices.setdefault(part["index"], Choice())
        if choice.reasons:
            self.problems.append(f"choice {part['index']} went on after its end")
        message = part.get("delta") or part.get("message") or {}
        choice.text += part.get("text") or message.get("content") or ""
        if part.get("logprobs"):
            take_logprobs(choice, part["logprobs"])
        if part.get("finish_reason"):
            choice.reasons.append(part["finish_reason"])
            choice.stop_reason = part.get("stop_reason")


def take_logprobs(choice: Choice, block: dict) -> None:
    """Tokens of a completion's logprobs, or of a chat's."""
    if "content" in block:
        choice.tokens += [entry["token"] for entry in block["content"] or ()]
        choice.logprobs += [entry["logprob"] for entry in block["content"] or ()]
    else:
        choice.tokens += block["tokens"]
        choice.logprobs += block["token_logprobs"]


class History:
    """All exchanges of a run, and what the same requests are answered in peace."""

    def __init__(self) -> None:
        self.all: list[Heard] = []
        self._references: dict[str, Answer] = {}

    def refer(self, heard: Heard) -> None:
        """This is how a request of that name is answered; it must itself be in order."""
        answer = Answer(heard)
        found = [*problems_of(answer, None), *answer.problems]
        assert not found, f"the reference of {heard.asked.name} is not in order: {found}"
        self._references[heard.asked.name] = answer

    def knows(self, name: str) -> bool:
        """True if there is a reference for requests of that name."""
        return name in self._references

    def begin(self) -> History:
        """An empty history with the same references."""
        history = History()
        history._references = self._references
        return history

    def add(self, heard: Heard) -> None:
        self.all.append(heard)

    def problems(self) -> list[str]:
        """A sentence for each thing that is wrong."""
        found = []
        markers = {heard.asked.marker for heard in self.all if heard.asked.marker}
        for number, heard in enumerate(self.all):
            answer = Answer(heard)
            wrong = [*answer.problems, *problems_of(answer, self._references.get(heard.asked.name))]
            wrong += strangers(answer, markers)
            found += [f"request {number} ({heard.asked.name}), {heard.seconds:.1f} s: {each}" for each in wrong]
        return found

    def check(self) -> None:
        """Every client got what it is owed."""
        found = self.problems()
        assert self.all, "nobody asked for anything"
        assert not found, f"{len(found)} problems in {len(self.all)} requests:\n" + "\n".join(found[:20])

    def summary(self) -> str:
        answers = [Answer(heard) for heard in self.all]
        refused = sum(heard.is_refusal for heard in self.all)
        bad = sum(bool(answer.errors) for answer in answers)
        gap = max((heard.longest_gap for heard in self.all), default=0.0)
        tokens = sum(answer.num_tokens for answer in answers)
        return (
            f"{len(self.all)} requests, {refused} refused, {bad} errors, {tokens} tokens, longest silence {gap:.2f} s"
        )


def problems_of(answer: Answer, reference: Answer | None) -> list[str]:
    """What is wrong with one answer."""
    heard, asked = answer.heard, answer.heard.asked
    if heard.did_leave:
        return compare(answer, reference, is_part=True)
    if asked.may_be_refused and heard.is_refusal:
        return [] if "retry-after" in heard.headers else ["refused without Retry-After"]
    if heard.trouble or not heard.is_whole:
        return [f"the answer broke off after {len(heard.events)} events: {heard.trouble or 'no end'}"]
    if answer.num_endings != 1:
        return [f"{answer.num_endings} terminal events"]
    if heard.status != 200 or answer.errors:
        if asked.may_end_badly and answer.errors:
            return compare(answer, reference, is_part=True)
        return [f"status {heard.status}, {answer.errors or [event.data[:200] for event in heard.events]}"]
    return [*incomplete(answer), *compare(answer, reference, is_part=False)]


def incomplete(answer: Answer) -> list[str]:
    """What a finished answer lacks."""
    asked, found = answer.heard.asked, []
    if sorted(answer.choices) != list(range(asked.num_choices)):
        found.append(f"choices {sorted(answer.choices)} instead of {asked.num_choices}")
    found += [f"choice {i} ended {len(c.reasons)} times" for i, c in answer.choices.items() if len(c.reasons) != 1]
    wants_usage = not asked.is_stream or (asked.body.get("stream_options") or {}).get("include_usage")
    if wants_usage and not answer.usages:
        found.append("no usage")
    num_sent = sum(len(choice.tokens) for choice in answer.choices.values())
    if answer.usages and num_sent and num_sent != answer.num_tokens:
        found.append(f"usage says {answer.num_tokens} tokens, {num_sent} were sent")
    return found


def compare(answer: Answer, reference: Answer | None, *, is_part: bool) -> list[str]:
    """How an answer differs from the same request's in peace; a part must be the beginning of it."""
    if reference is None:
        return []
    found = []
    for index, choice in answer.choices.items():
        want = reference.choices.get(index, Choice())
        if choice.text != want.text and not (is_part and want.text.startswith(choice.text)):
            found.append(f"choice {index}: {first_difference(choice.text, want.text)}")
        if not is_part and (choice.reasons, choice.stop_reason) != (want.reasons, want.stop_reason):
            found.append(f"choice {index} ended with {choice.reasons}, {choice.stop_reason}, not {want.reasons}")
        found += [f"choice {index}: {each}" for each in compare_logprobs(choice, want, is_part=is_part)]
    if not is_part and answer.usages and answer.num_tokens != reference.num_tokens:
        found.append(f"usage says {answer.num_tokens} tokens instead of {reference.num_tokens}")
    return found


def compare_logprobs(choice: Choice, want: Choice, *, is_part: bool) -> list[str]:
    """How the tokens of a choice and their log-probabilities differ."""
    if choice.tokens != (want.tokens[: len(choice.tokens)] if is_part else want.tokens):
        return [f"{len(choice.tokens)} tokens differ from the {len(want.tokens)} of the reference"]
    pairs = zip(choice.logprobs, want.logprobs, strict=False)
    far = [(got, right) for got, right in pairs if abs(got - right) > LOGPROB_SLACK]
    return [f"log-probability {far[0][0]} instead of {far[0][1]} ({len(far)} differ)"] if far else []


def first_difference(got: str, want: str) -> str:
    """Where two texts part."""
    at = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
    begin = max(0, at - 30)
    return f"text differs at character {at} of {len(want)}: {got[begin : at + 30]!r} is not {want[begin : at + 30]!r}"


def strangers(answer: Answer, markers: Iterable[str]) -> list[str]:
    """Words of other tenants in an answer."""
    mine = answer.heard.asked.marker
    texts = [choice.text for choice in answer.choices.values()]
    others = [marker for marker in markers if marker != mine and any(marker in text for text in texts)]
    return [f"it holds another tenant's words: {others[:3]}"] if others else []


def pod_problems(loads: Sequence[dict], metrics: Sequence[dict[str, float]]) -> list[str]:
    """What is left behind in pods that have nothing to do: `/internal/v1/load` and `/metrics` of each."""
    found = []
    for load in loads:
        left = {name: load[name] for name in ("kv_usage", "leases", "running", "waiting") if load[name]}
        if left:
            found.append(f"{load['name']} ({load['role']}) still has {left}")
        totals = load["transfers"]
        if totals["failed"] > totals["fallbacks"]:
            found.append(f"{load['name']}: {totals['failed']} failed transfers, {totals['fallbacks']} fallbacks")
    broken = [samples["penstock_integrity_failures_total"] for samples in metrics]
    return [*found, *(f"{count:.0f} integrity failures" for count in broken if count)]
