"""Offline verification of sealed batches, spools, archives, exports and proofs (docs/formats).

In: paths and trust. Out: a `Report`. Reads only, and needs neither probe nor Core to run.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from dpi_probe import _native
from dpi_probe._counted import counted
from dpi_probe._verify.chains import Chains
from dpi_probe._verify.findings import Chain, Finding, Report
from dpi_probe._verify.sources import Piece, Source, find_source, json_object, jws_part, spool_head, whole_number
from dpi_probe._verify.trust import Trust, load_certificates
from dpi_probe.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dpi_probe._verify.sources import PieceKind

__all__ = ["Chain", "Finding", "Report", "Trust", "load_certificates", "verify_paths"]

_MAX_NAMED_ROWS = 20
_MAX_TIME = 1 << 62


def verify_paths(
    paths: Sequence[Path],
    *,
    ca: Path | None = None,
    certificates: Sequence[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Verify everything that lies at `paths`.

    Args:
        paths: sealed batches, manifests, proofs, spool, archive and export directories.
        ca: the CA certificate (PEM) that must have issued every certificate. Without it, certificates that are given
            are trusted as they are, and no others; without those either, what lies with an archive or export is trusted
            under the CA that lies there.
        certificates: certificates of probes (PEM files, or directories of them).
        progress: is told the size of each piece that was checked, in bytes.

    Raises:
        ConfigError: a certificate cannot be read.
    """
    report = Report()
    trust = Trust.given(ca, certificates)
    report.trusted.extend(trust.because)
    chains = Chains(report)

    def unreadable(path: Path, reason: str) -> None:
        if not any(finding.where == str(path) for finding in report.findings):
            report.fault("unreadable", str(path), reason)

    for path in paths:
        try:
            source = find_source(path)
        except FileNotFoundError as error:
            report.fault("unreadable", str(path), f"cannot be read: {error.strerror}; check the path")
            continue
        except OSError as error:
            report.fault("unreadable", str(path), f"cannot be read: {error.strerror or error}")
            continue
        beside = trust.beside(source.authority, source.certificates, unreadable)
        verifier = _Verifier(report, chains, source, beside)
        report.trusted.extend(because for because in verifier.trust.because if because not in report.trusted)
        for piece in source.pieces():
            verifier.check(piece)
            if progress is not None:
                progress(len(piece.data))
        verifier.finish()
    chains.check()
    return report


class _Verifier:
    """Checks the pieces of one source."""

    def __init__(self, report: Report, chains: Chains, source: Source, trust: Trust) -> None:
        self.report = report
        self.chains = chains
        self.source = source
        self.trust = trust
        self._outside: list[tuple[str, str, str]] = []
        """Of batches sealed outside the validity of their certificate: digest of the manifest, where, what to say."""
        self._received: set[str] = set()
        """Digests of the manifests for which a receipt holds."""
        self._chains_here: set[tuple[str, str]] = set()
        """Probe and chain of what holds."""
        self._heads_here: set[tuple[str, str]] = set()
        """Probe and chain of the chain heads that hold."""
        self._other_heads: set[str] = set()
        """Names of the files of those that do not, or cannot be judged."""
        self._unreadable: list[PurePath] = []
        self._unchecked_receipts = 0
        self._unchecked_heads = 0

    def check(self, piece: Piece) -> None:
        """Check one piece."""
        if piece.note:
            self.report.note(piece.role, piece.where, piece.note)
        checks: dict[PieceKind, Callable[[Piece], None]] = {
            "batch": self._batch,
            "manifest": self._manifest,
            "proof": self._proof,
            "receipt": self._lone_receipt,
            "head": self._head,
            "spool_head": self._spool_head,
            "damage": self._damage,
            "unreadable": self._damage,
        }
        checks[piece.kind](piece)

    def finish(self) -> None:
        """Say what could not be judged before every piece was seen.

        A probe goes on sealing when its certificate expires. Its time of sealing is its own word, with which a key
        that was stolen later can say anything; that a Core took the batch from this probe is the Core's.
        """
        for digest, where, message in self._outside:
            if digest in self._received:
                self.report.note("certificate", where, f"{message}; its receipt shows that the Core accepted it")
            else:
                self.report.fault("certificate", where, message)
        if self.source.layout == "export":
            self._miss_heads()
        self._say_unchecked()

    def _miss_heads(self) -> None:
        """An export has a head for each chain: without it, nobody could tell that its last batches are left out."""
        heads = PurePath(self.source.path, "heads")
        if any(path.is_relative_to(heads) for path in self._unreadable):
            return
        for probe, chain in sorted(self._chains_here - self._heads_here):
            if chain not in self._other_heads:
                left_out = f"the chain head of chain {chain} ({probe}) is left out"
                message = f"{left_out}, so that missing last batches would not show"
                self.report.fault("head", str(self.source.path), message)

    def _say_unchecked(self) -> None:
        self.report.unchecked_receipts += self._unchecked_receipts
        self.report.unchecked_heads += self._unchecked_heads
        counts = ((self._unchecked_receipts, "receipt"), (self._unchecked_heads, "chain head"))
        if what := " and ".join(counted(number, one) for number, one in counts if number):
            were = "was" if self._unchecked_receipts + self._unchecked_heads == 1 else "were"
            self.report.note(
                "unchecked",
                str(self.source.path),
                f"{what} {were} not checked, so that missing last batches, or batches of which only the manifest is "
                "here, would not show; give --ca",
            )

    def _damage(self, piece: Piece) -> None:
        if piece.message:
            self.report.fault(piece.kind, piece.where, f"{_named(piece)}{piece.message}")
        if piece.kind == "unreadable":
            self._unreadable.append(PurePath(piece.where))
        if piece.stated is not None:
            self.chains.damaged(*piece.stated)

    def _lone_receipt(self, piece: Piece) -> None:
        self._receipt(piece.data.decode("ascii", "replace"), piece.where, piece.stated, None)

    def _batch(self, piece: Piece) -> None:
        self.report.batches += 1
        try:
            signed = _native.verify_batch(piece.data, self.trust.certificates)
        except VerificationError:
            self._diagnose(piece)
            return
        if piece.message:
            # An archive's record whose own digest is wrong, while the batch in it holds.
            message = f"{_named(piece)}{piece.message}, beside the batch, which holds"
            self.report.fault("damage", piece.where, message)
        self.report.records += signed["claims"]["rows"]
        self._signed(piece, signed, is_batch=True)

    def _manifest(self, piece: Piece) -> None:
        self.report.manifests += 1
        try:
            signed = _native.verify_manifest(piece.data.decode("ascii", "replace"), self.trust.certificates)
        except VerificationError as error:
            self.report.fault(_check(error), piece.where, f"{_named(piece)}{error}{self._hint(error)}")
            if piece.stated is not None:
                self.chains.damaged(*piece.stated)
            return
        if piece.message:
            self.report.fault("receipt", piece.where, f"{_named(piece)}{piece.message}")
        self._signed(piece, signed, is_batch=False)

    def _signed(self, piece: Piece, signed: _native.Signed, *, is_batch: bool) -> None:
        """What follows once the signature holds: certificate, place, chain, receipt."""
        claims = signed["claims"]
        place = (claims["chain"], claims["seq"])
        named = f"batch {claims['seq']} of chain {claims['chain']}: "
        if (objection := self.trust.objection(signed["certificate"])) is not None:
            self.report.fault("certificate", piece.where, f"{named}{objection}")
        elif (outside := self.trust.outside(signed["certificate"], claims["iat"])) is not None:
            self._outside.append((signed["manifest_digest"], piece.where, f"{named}{outside}"))
        if piece.stated is not None and piece.stated != place:
            self.report.fault(
                "reordered",
                piece.where,
                f"reordered: it stands as batch {piece.stated[1]} of chain {piece.stated[0]}, "
                f"but was sealed as batch {place[1]} of chain {place[0]} ({claims['iss']})",
            )
            self.chains.damaged(*piece.stated)
        if piece.role == "fork":
            self.report.fault(
                "fork", piece.where, f"forked: a second batch {place[1]} of chain {place[0]} ({claims['iss']})"
            )
            return
        digest = signed["manifest_digest"]
        self._chains_here.add((claims["iss"], claims["chain"]))
        waits = self.source.layout == "spool" and piece.role == "evidence"
        self.chains.add(
            claims, digest, piece.where, str(self.source.path), self.source.layout, is_batch=is_batch, waits=waits
        )
        if piece.receipt:
            self._receipt(piece.receipt, piece.where, place, digest)

    def _diagnose(self, piece: Piece) -> None:
        """Say in one line what is wrong with a batch, down to the record if that can be told."""
        found = _native.diagnose_batch(piece.data, self.trust.certificates)
        claims = found["claims"]
        named = _named(piece)
        if claims is not None and not piece.stated:
            named = f"batch {claims['seq']} of chain {claims['chain']} ({claims['iss']}): "
        check, first = found["failures"][0]
        messages = [message for _, message in found["failures"]]
        rows = found["altered_rows"]
        if rows:
            shown = ", ".join(map(str, rows[:_MAX_NAMED_ROWS])) + (", …" if len(rows) > _MAX_NAMED_ROWS else "")
            of = f" of {claims['rows']}" if claims is not None else ""
            messages.append(f"altered: record {shown}{of}")
        if found["undecodable_columns"]:
            columns = ", ".join(found["undecodable_columns"])
            messages.append(f"column {columns} cannot be decoded, so every record of the batch is affected")
        elif found["records_hold"] and check == "body":
            messages.append("its records all hold: what was altered lies beside them")
        hint = self._hint(None) if check == "certificate" else ""
        self.report.fault(check, piece.where, f"{named}{'; '.join(messages) or first}{hint}")
        place = piece.stated or ((claims["chain"], claims["seq"]) if claims is not None else None)
        if place is not None:
            self.chains.damaged(*place)

    def _hint(self, error: VerificationError | None) -> str:
        if error is not None and _check(error) != "certificate":
            return ""
        if self.source.certificates and self.trust.authority is None:
            return "; give the probe's certificate with --certificate, or the CA with --ca"
        return "" if self.trust.certificates else "; give the probe's certificate with --certificate"

    def _proof(self, piece: Piece) -> None:
        self.report.proofs += 1
        try:
            proved = _native.check_proof(piece.data.decode("utf-8", "replace"), self.trust.certificates)
        except VerificationError as error:
            self.report.fault(_check(error), piece.where, f"{error}{self._hint(error)}")
            return
        claims = proved["claims"]
        certificate = proved["certificate"]
        objection = self.trust.objection(certificate) or self.trust.outside(certificate, claims["iat"])
        if objection is not None:
            self.report.fault("certificate", piece.where, objection)
            return
        message = f"record {proved['row']} is in batch {claims['seq']} of chain {claims['chain']} ({claims['iss']})"
        self.report.note("proof", piece.where, message)

    def _receipt(self, receipt: str, where: str, place: tuple[str, int] | None, digest: str | None) -> None:
        if self.trust.authority is None:
            self._unchecked_receipts += 1
            return
        self.report.receipts += 1
        try:
            claims = _native.verify_receipt(receipt, self.trust.authority, _issued_at(receipt))
        except VerificationError as error:
            self.report.fault("receipt", where, str(error))
            return
        wrong_place = place is not None and place != (claims["chain"], claims["seq"])
        if wrong_place or (digest is not None and digest != claims["manifest"]):
            self.report.fault("receipt", where, f"its receipt is for batch {claims['seq']} of chain {claims['chain']}")
            return
        self._received.add(claims["manifest"])
        if claims["status"] == "archived":
            self.chains.archived(claims["probe"], claims["chain"], claims["seq"], claims["manifest"])
        if digest is None:
            self._came_so_far(claims, where)

    def _came_so_far(self, claims: _native.Receipt | _native.ChainHead, where: str) -> None:
        self.chains.head(
            claims["chain"], claims["seq"], claims["manifest"], claims["probe"], where, layout=self.source.layout
        )

    def _spool_head(self, piece: Piece) -> None:
        """The last manifest that the probe of a spool sealed, as its own, unsigned, note says."""
        head = spool_head(piece.data)
        if head is None:
            self.report.note("head", piece.where, "is damaged: whether the newest batches are here cannot be told")
        else:
            self.chains.head(*head, None, piece.where, spool=str(self.source.path))

    def _head(self, piece: Piece) -> None:
        if self.trust.authority is None:
            self._unchecked_heads += 1
            self._other_heads.add(PurePath(piece.where).stem)
            return
        self.report.heads += 1
        token = piece.data.decode("ascii", "replace")
        try:
            claims = _native.verify_head(token, self.trust.authority, _issued_at(token))
        except VerificationError as error:
            self.report.fault("head", piece.where, str(error).replace("receipt", "chain head"))
            self._other_heads.add(PurePath(piece.where).stem)
            return
        self._heads_here.add((claims["probe"], claims["chain"]))
        self._came_so_far(claims, piece.where)


def _named(piece: Piece) -> str:
    return f"batch {piece.stated[1]} of chain {piece.stated[0]}: " if piece.stated is not None else ""


def _check(error: VerificationError) -> str:
    return str(getattr(error, "check", "format"))


def _issued_at(token: str) -> int:
    """`iat` of a JWS that is about to be verified: a Core's certificate counts if it was valid then."""
    claims = json_object(jws_part(token.encode("utf-8", "replace"), 1))
    return whole_number(claims.get("iat"), _MAX_TIME) or 0
