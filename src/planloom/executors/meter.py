"""What an attempt asks of models, counted: every call of every executor goes through a `Meter`.

Rule 1: a call that might pass what the attempt was granted is not made; the measure is its ceiling, never a guess.
Rule 2: what was used is booked whatever the call came to. A call that was cut short books an estimate, flagged; one
that was never taken on (no connection, an HTTP error, still waiting for its turn) books nothing.
Rule 3: the prices are those pinned when the run started; a model without a price there has no cost, not a zero one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from planloom.core.asking import prompt_ceiling
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.prices import ModelFacts
from planloom.core.result import Usage
from planloom.errors import ConfigError, GrantError, ModelError, ModelStreamError, UnknownPriceError
from planloom.executors.classify import usage_of

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.models.catalogue import Models
    from planloom.models.llm import LLM
    from planloom.ports import AttemptContext

SLACK_USD = 1e-9
"""Dollars are floats: 5 × 0.1 must fit into 0.5."""
SMALLEST_ANSWER = 4096
"""Tokens of an answer that are asked for where neither the call nor anything known of its model says a number."""


@dataclass(slots=True, eq=False)
class _Call:
    """One call from before it is sent to its books.

    Attributes:
        prompt: Tokens that its prompt cannot pass.
        usd: Dollars that it cannot pass; 0 where nothing is known to cost.
        is_waiting: True while it waits for its turn, and once it has given that up: nothing was sent.
        pieces: What was streamed so far.
    """

    llm: LLM
    call: ModelCall
    facts: ModelFacts
    prompt: int
    usd: float
    is_waiting: bool = False
    pieces: list[str] = field(default_factory=list)

    @property
    def answer(self) -> int:
        return self.call.max_tokens or 0

    @property
    def tokens(self) -> int:
        return self.prompt + self.answer

    def estimate(self, *, streams: bool) -> Usage:
        """Return what it is taken to have used, cut short as it was."""
        answered = self.answer
        if streams:
            answered = min(self.answer, self.llm.estimate_tokens("".join(self.pieces)))
        return Usage(self.prompt, answered, requests=1, estimated_tokens=self.prompt + answered)


_under_way: dict[tuple[str, str, int], set[_Call]] = {}
"""Calls that share a grant, by run, step and grant: several at once (samples, a draft beside its model) are counted
together, whichever meters they go through."""


class Meter:
    """Asks models on behalf of one attempt.

    Attributes:
        requests: Answers it got so far.
        is_priced: False once something was used that nobody knows the price of.
    """

    def __init__(self, context: AttemptContext, request: RunStep, models: Models) -> None:
        """Begin to count. If the step's models have prices, an attempt that asks none of them has cost 0."""
        self.requests = 0
        self.is_priced = True
        self._context = context
        self._request = request
        self._models = models
        if context.reported_usd is None and _has_prices(request):
            context.report_usd(0.0)

    def llm(self, ref: str) -> LLM:
        """Return the model behind a name or URI: the one the run was started with, if settings changed since.

        Raises:
            UnknownModelError: There is none.
        """
        facts = self._request.models.get(ref)
        return pinned(self._models, ref, facts)

    async def ask(self, asked: str | LLM, call: ModelCall, *, ref: str | None = None) -> LLMResponse:
        """Return the whole answer.

        Args:
            asked: A name or URI as the plan has it, or a model in hand.
            ref: Of a model in hand: the name or URI it has in the plan; None: found by its URI.

        Raises:
            GrantError: The call might pass what is left of the grant; it was not made.
            ModelError: No answer.
        """
        made = self._made(asked, call, ref)
        with self._booked(made, streams=False):
            return self._answered(made, await made.llm.ask(made.call, on_wait=self._on_wait(made)))

    async def stream(
        self, asked: str | LLM, call: ModelCall, on_text: Callable[[str], None], *, ref: str | None = None
    ) -> LLMResponse:
        """Return the whole answer, having handed on its text piece by piece; as `ask` otherwise."""
        made = self._made(asked, call, ref)
        with self._booked(made, streams=True):
            async with aclosing(made.llm.stream_call(made.call, on_wait=self._on_wait(made))) as pieces:
                async for piece in pieces:
                    if isinstance(piece, LLMResponse):
                        return self._answered(made, piece)
                    made.pieces.append(piece)
                    on_text(piece)
            raise ModelStreamError(f"the answer of {made.llm.uri} ended before it was whole")

    def _made(self, asked: str | LLM, call: ModelCall, ref: str | None) -> _Call:
        """Return the call as it will be sent, with its ceilings."""
        llm, facts = self._known(asked, ref)
        if call.max_tokens is None:
            call = replace(call, max_tokens=facts.max_tokens)
        prompt = prompt_ceiling(call)
        usd = 0.0 if facts.price is None else facts.price.ceiling_usd(prompt, call.max_tokens or 0)
        return _Call(llm, call, facts, prompt, usd)

    def _known(self, asked: str | LLM, ref: str | None) -> tuple[LLM, ModelFacts]:
        if isinstance(asked, str):
            facts = self._request.models.get(asked)
            return self.llm(asked), facts or self._models.facts(asked, priced=False)
        known = self._request.models
        if ref is None:
            uri = str(asked.uri)
            same = [name for name, facts in known.items() if facts.uri == uri]
            if len(same) > 1:  # models that were given bare may share an address
                same.sort(key=lambda name: self.llm(name) is not asked)
            ref = same[0] if same else None
        facts = known.get(ref) if ref is not None else None
        return asked, facts or ModelFacts(
            str(asked.uri), max_tokens=asked.metadata.max_tokens_per_request or SMALLEST_ANSWER
        )

    def _check_grant(self, made: _Call, beside: set[_Call]) -> None:
        grant, context = self._request.grant, self._context
        limits: list[str] = []
        if grant.usd is not None:
            if made.facts.price is None:
                raise UnknownPriceError(
                    f"money is limited, and nobody knows what {made.facts.uri} costs",
                    remedy="give its price below [prices] in planloom.toml, or as ?price_in=&price_out= in its URI",
                    step=self._request.key,
                )
            used_usd = (context.reported_usd or 0.0) + sum(one.usd for one in beside)
            if used_usd + made.usd > grant.usd + SLACK_USD:
                limits.append("max_total_cost_usd")
        if grant.tokens is not None:
            usage = context.reported_usage or Usage()
            if usage.total_tokens + sum(one.tokens for one in beside) + made.tokens > grant.tokens:
                limits.append("max_total_tokens")
        if limits:
            raise GrantError(
                f"the next call of {made.facts.uri} may take {made.tokens} tokens, and what step "
                f"{self._request.key!r} was granted of {' and '.join(limits)} is not enough for it",
                limits=tuple(limits),
                remedy="raise the limit, or give the step a lower max_tokens",
                step=self._request.key,
            )

    @contextmanager
    def _booked(self, made: _Call, *, streams: bool) -> Iterator[None]:
        """Hold what the call may use while it is under way, and book what it used if it brings no answer."""
        request = self._request
        shared = request.run_id, request.key, id(request.grant)
        self._check_grant(made, _under_way.get(shared, set()))
        beside = _under_way.setdefault(shared, set())
        beside.add(made)
        try:
            yield
        except (asyncio.CancelledError, TimeoutError, ModelError) as error:
            usage = usage_of(error)
            if usage is None and _is_cut_short(error) and not made.is_waiting:
                usage = made.estimate(streams=streams)
            if usage is not None:
                self._book(made, usage)
            raise
        finally:
            beside.discard(made)
            if not beside:
                _under_way.pop(shared, None)

    def _answered(self, made: _Call, answer: LLMResponse) -> LLMResponse:
        self.requests += 1
        self._book(made, answer.usage)
        return answer

    def _book(self, made: _Call, usage: Usage) -> None:
        self._context.report_usage(usage)
        if made.facts.price is None:
            self.is_priced = False
        else:
            self._context.report_usd(made.facts.price.cost_usd(usage))

    def _on_wait(self, made: _Call) -> Callable[[str | None, float | None], None]:
        task = asyncio.current_task()
        cancels = task.cancelling() if task is not None else 0

        def on_wait(reason: str | None, until: float | None) -> None:
            # A wait that was cancelled is over as well, and its call is never sent.
            is_cancelled = task is not None and task.cancelling() > cancels
            made.is_waiting = reason is not None or is_cancelled
            self._context.waiting(reason, until)

        return on_wait


def pinned(models: Models, ref: str, facts: ModelFacts | None) -> LLM:
    """Return the model a run was started with: by its name, or by the URI on record if the name means another now.

    Raises:
        UnknownModelError: There is none.
    """
    if facts is None:
        return models.get(ref)
    try:
        llm = models.get(ref)
    except ConfigError:
        return models.get(facts.uri)
    return llm if str(llm.uri) == facts.uri else models.get(facts.uri)


def _is_cut_short(error: BaseException) -> bool:
    """Return whether the provider was at work when the call ended."""
    if isinstance(error, ModelError) and error.status_code is not None:
        return isinstance(error, ModelStreamError)
    return isinstance(error, asyncio.CancelledError | TimeoutError | ModelStreamError)


def _has_prices(request: RunStep) -> bool:
    """Return whether all that the attempt may cost is what its models do, and their prices are known."""
    step = request.step
    if request.role == "replan":
        named = [step.replan.model if step.replan is not None else None]
    elif step.tool is not None:
        return False  # a tool that says nothing costs what it declares
    else:
        named = [step.model]
        if step.speculate is not None:
            named += [step.speculate.draft, step.speculate.judge]
        if step.verify is not None:
            named.append(step.verify.model)
    known = [request.models[ref] for ref in named if ref is not None and ref in request.models]
    return bool(known) and all(facts.price is not None for facts in known)
