"""What the training doctor hands over: findings, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or nearly so.

    Attributes:
        code: a name to look for, such as "softmax_before_loss".
        seen: what was seen, with numbers.
        harm: why that hurts.
        fix: what to change.

    >>> import minidl as md
    >>> finding = md.train.Finding("nan_in_data", "3 of 12 values are NaN.", "The loss becomes NaN.", "Leave them out.")
    >>> finding.code, finding.fix
    ('nan_in_data', 'Leave them out.')
    """

    code: str
    seen: str
    harm: str
    fix: str

    def __str__(self) -> str:
        return f"{self.code}: {self.seen}\n    why it hurts: {self.harm}\n    fix: {self.fix}"


@dataclass
class Diagnosis:
    """What the doctor found; ``str()`` reads well, and it is true when there are findings.

    Attributes:
        findings: one after the other, in the order: data, model, loss, gradients, optimizer.

    >>> import minidl as md
    >>> from minidl.train import Diagnosis, Finding
    >>> report = Diagnosis([Finding("nan_in_data", "3 of 12 values are NaN.", "The loss becomes NaN.", "Leave them out.")])
    >>> report.codes
    ['nan_in_data']
    >>> print(report)
    1 finding
    nan_in_data: 3 of 12 values are NaN.
        why it hurts: The loss becomes NaN.
        fix: Leave them out.
    """

    findings: list[Finding] = field(default_factory=list)

    @property
    def codes(self) -> list[str]:
        """The findings' names."""
        return [finding.code for finding in self.findings]

    def add(self, code: str, seen: str, harm: str, fix: str) -> None:
        """One more, unless there is one of this name already."""
        if code not in self.codes:
            self.findings.append(Finding(code, seen, harm, fix))

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __str__(self) -> str:
        if not self.findings:
            return "nothing found"
        count = f"{len(self)} finding{'s' if len(self) > 1 else ''}"
        return "\n".join([count, *map(str, self.findings)])

    __repr__ = __str__
