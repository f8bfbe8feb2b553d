"""The protocols over each source of maps: a method, its parts, and the centre baseline beside them."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from wsol_ext._names import unknown
from wsol_ext.evaluation.results import CENTER, ProtocolResult
from wsol_ext.evaluation.threshold_from import ChosenThresholds
from wsol_ext.evaluation.views import VIEWS
from wsol_ext.metrics import EVALUATED, PROTOCOLS, Batch, Protocol, View, center_map

__all__ = ["Measures", "check_protocols", "is_first_process", "protocol_names"]


def protocol_names(protocols: str | Sequence[str]) -> list[str]:
    """The names of protocols, of which one may be given alone.

    Raises:
        TypeError: something else.

    Example:
        >>> protocol_names("toploc"), protocol_names(("maxboxacc", "toploc"))
        (['toploc'], ['maxboxacc', 'toploc'])
    """
    names = [protocols] if isinstance(protocols, str) else protocols
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"protocols is {protocols!r}, it should be names of protocols")
    return list(names)


def check_protocols(protocols: Sequence[str], has: Callable[[str], bool]) -> None:
    """Refuse protocols that there are not, or that the data cannot be evaluated by.

    Args:
        protocols: names.
        has: whether the data has "boxes" or "masks".

    Raises:
        ValueError: no protocol, an unknown one, or one that needs what the data lacks.
    """
    if not protocols:
        raise ValueError(f"no protocol is given, there should be one of {', '.join(PROTOCOLS)}")
    for name in protocols:
        if name not in PROTOCOLS:
            raise ValueError(unknown("protocol", name, PROTOCOLS))
        needed = PROTOCOLS[name].needs
        if not has(needed):
            raise ValueError(f"protocol {name} needs {needed}, which the data set does not have")


def is_first_process() -> bool:
    """Whether this process is the one that shows progress."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


class Measures:
    """What each protocol counts of each source of maps.

    Args:
        method: the name of the method in the results.
        protocols: names out of `PROTOCOLS`.
        interval: of thresholds and of bins of scores.
        threshold: of the method and its parts; "best" chooses it.
        parts: the method's parts, which see whole pictures only.
        device: where the counts are kept.
        chosen: thresholds of all sources that other pictures chose, in place of `threshold`.

    Raises:
        ValueError: the other pictures chose none for a protocol.
    """

    def __init__(
        self,
        method: str,
        protocols: Sequence[str],
        interval: float,
        threshold: float | str,
        parts: Sequence[str] = (),
        device: torch.device | None = None,
        chosen: ChosenThresholds | None = None,
    ) -> None:
        threshold = threshold if chosen is None else "best"
        self.asked: dict[str, Any] = {
            **{"method": method, "parts": list(parts), "protocols": list(protocols)},
            **{"interval": interval, "threshold": threshold},
        }

        def make(threshold: float | str, views: Sequence[View] = VIEWS) -> dict[str, Protocol]:
            chosen = [PROTOCOLS[name] for name in protocols if PROTOCOLS[name].view in views]
            return {each.name: each.make(interval=interval, threshold=threshold) for each in chosen}

        self.method = method
        self._sources = {method: make(threshold)}
        for part in parts:
            self._sources[self._title(part)] = make(threshold, views=["whole"])
        # The baseline's Gaussian has no threshold of its own: it gets the one that is best for it.
        self._sources[CENTER] = make("best")
        for by_protocol in self._sources.values():
            for protocol in by_protocol.values():
                protocol.to(device or torch.device("cpu"))
        if chosen is not None:
            self._choose(chosen, interval)

    def _choose(self, chosen: ChosenThresholds, interval: float) -> None:
        for source, by_protocol in self._sources.items():
            for name, protocol in by_protocol.items():
                if thresholds := chosen.of(name, self.method, source, interval):
                    protocol.choose(thresholds, f"by {chosen}")

    @property
    def views(self) -> set[View]:
        """What of each picture the protocols look at."""
        return {protocol.view for protocol in self._sources[self.method].values()}

    def traits(self) -> dict[str, list[str]]:
        """By protocol and source, those of the protocol's traits that are true of the source."""
        return {key: [n for n in p.traits if getattr(p, n)] for key, p in self._judging().items()}

    def recall(self, traits: Mapping[str, Sequence[str]]) -> None:
        """Note traits that were kept with verdicts."""
        for key, protocol in self._judging().items():
            for name in protocol.traits:
                setattr(protocol, name, name in traits[key])

    @property
    def keeps_verdicts(self) -> bool:
        """Whether all protocols do."""
        return all(each.keeps_verdicts for each in self._sources[self.method].values())

    def _judging(self) -> dict[str, Protocol]:
        """By protocol and source, those that keep verdicts."""
        return {
            f"{protocol.name}/{name}": protocol
            for name, by_protocol in self._sources.items()
            for protocol in by_protocol.values()
            if protocol.keeps_verdicts
        }

    def update(self, view: View, whole: Batch, parts: Mapping[str, Batch] | None = None) -> None:
        """Count a batch in one view: the method's maps, those of its parts, and the baseline's for the same images."""
        self.add(self.judge(view, whole, parts))

    def judge(
        self, view: View, whole: Batch, parts: Mapping[str, Batch] | None = None
    ) -> dict[str, Tensor]:
        """The verdicts on a batch in one view by protocol and source, as `Verdicts` has them: (B, …) on the CPU.

        Protocols that keep none have counted it then.
        """
        shown = {self._title(part): batch for part, batch in (parts or {}).items()}
        shown |= {self.method: whole, CENTER: _baseline(whole)}
        verdicts = {}
        for name, by_protocol in self._sources.items():
            for protocol in by_protocol.values():
                if protocol.view != view:
                    continue
                if protocol.keeps_verdicts:
                    verdicts[f"{protocol.name}/{name}"] = protocol.judge(shown[name]).cpu()
                else:
                    protocol.update(shown[name])
        return verdicts

    def add(self, verdicts: Mapping[str, Tensor]) -> None:
        """Count images by their verdicts."""
        for key, protocol in self._judging().items():
            if key in verdicts:
                protocol.add(verdicts[key])

    def results(self) -> list[ProtocolResult]:
        """Each protocol's numbers over all that was counted, by all processes."""
        results = []
        for name, protocol in self._sources[self.method].items():
            result = ProtocolResult(name, protocol.settings(), {})
            for source, by_name in self._sources.items():
                if name not in by_name:
                    continue
                result.metrics[source] = by_name[name].compute()
                if thresholds := by_name[name].thresholds():
                    result.thresholds[source] = thresholds
                by_others = by_name[name].at is not None
                if by_others:
                    result.oracle[source] = by_name[name].oracle()
                cut = by_name[name].settings().get("threshold")
                if (source == CENTER and cut is not None) or cut != result.settings.get(
                    "threshold"
                ):
                    title = "threshold" if by_others else "best threshold"
                    result.settings[f"{source}'s {title}"] = cut
                for title, curve in by_name[name].curves().items():
                    result.curves.setdefault(title, {})[source] = curve
            results.append(result)
        return results

    def _title(self, part: str) -> str:
        return f"{self.method}, {part}"


def _baseline(batch: Batch) -> Batch:
    """The same images under a centred Gaussian."""
    maps = _centre(batch.maps.device).expand(len(batch.labels), -1, -1)
    return replace(batch, maps=maps, logits=None, found=None)


@functools.cache
def _centre(device: torch.device) -> Tensor:
    """The baseline's one map, which nobody writes to."""
    return center_map(EVALUATED, EVALUATED).to(device)
