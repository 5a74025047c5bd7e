"""The certificate authority of an installation: one directory, four kinds of file.

```
DIR/                      0700; every file in it 0600
├── ca.pem, ca.key        the authority: EC P-384
├── crl.pem               certificates that are no longer trusted; the Core reads it again when it changes
├── core.pem, core.key    the Core: EC P-256, serverAuth, URI urn:dpi-probe:core:NAME
├── probes/NAME.pem, .key a probe: RSA-4096, clientAuth, URI urn:dpi-probe:probe:NAME
└── earlier/NAME.SERIAL.pem   certificates that a newer one replaced; what they signed stays verifiable
```

Nothing is lost: new files take no other's place, and of a certificate that is replaced a link stays in `earlier/`. What
is to be made is on disk, under temporary names, before anything changes: a disk that is full changes nothing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import ipaddress
import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dpi_probe.errors import ConfigError, DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

PROBE_URN = "urn:dpi-probe:probe:"
CORE_URN = "urn:dpi-probe:core:"
CA_DAYS = 3650
LEAF_DAYS = 825
RSA_BITS = 4096
# The list is a local file that the Core trusts until it is replaced; nextUpdate only has to be later than that.
CRL_DAYS = 3650
# Clocks of probes may be behind that of the authority by this much.
BACKDATE = dt.timedelta(hours=1)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Role = Literal["probe", "core"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate of the authority as `pki list` shows it."""

    name: str
    role: Role
    serial: int
    not_after: dt.datetime
    state: Literal["valid", "earlier", "expired", "revoked"]
    path: Path


def check_name(name: str) -> str:
    """Return `name` if it can name a probe or a Core.

    Raises:
        ConfigError: it has characters that are not safe in a file name and a URI.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name {name!r}: 1 to 64 letters, digits, '.', '_' or '-' are allowed, the first a letter or digit"
        )
    return name


def role_of(certificate: x509.Certificate) -> tuple[Role, str] | None:
    """The role and name in the certificate's URI SAN, or None if it carries neither role."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        for role, urn in (("probe", PROBE_URN), ("core", CORE_URN)):
            name = uri.removeprefix(urn)
            if name != uri and _NAME.fullmatch(name):
                return ("probe" if role == "probe" else "core"), name
    return None


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's DER, which `x5t#S256` of a manifest names (RFC 7515 §4.1.8)."""
    return certificate.fingerprint(hashes.SHA256())


def load_certificate(path: Path, what: str) -> x509.Certificate:
    """Read one PEM certificate.

    Raises:
        ConfigError: the file cannot be read or holds no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{what} {path}: not a PEM certificate") from error


def load_key(path: Path, what: str) -> PrivateKey:
    """Read one unencrypted PEM private key that nobody but its owner may read.

    Raises:
        ConfigError: the file cannot be read, is readable by others, or holds no such key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(f"{what} {path}: readable by others (mode {mode & 0o777:04o}); run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{what} {path}: not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigError(f"{what} {path}: neither an EC nor an RSA key")
    return key


def load_revocations(path: Path, authority: x509.Certificate) -> x509.CertificateRevocationList:
    """Read the revocation list and check that the authority signed it.

    Raises:
        ConfigError: the file cannot be read, holds no list, or is not this authority's.
    """
    try:
        revocations = x509.load_pem_x509_crl(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"revocation list {path}: {error.strerror}; put back a copy, such as the one that the Core reads: "
            "without it nobody knows what is revoked"
        ) from error
    except OSError as error:
        raise ConfigError(f"revocation list {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"revocation list {path}: not a PEM revocation list") from error
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or not revocations.is_signature_valid(key):
        raise ConfigError(f"revocation list {path}: not signed by {authority.subject.rfc4514_string()}")
    return revocations


class Authority:
    """An installation's certificate authority, opened from its directory."""

    def __init__(self, directory: Path) -> None:
        """Open what `Authority.init` made.

        Raises:
            ConfigError: the directory holds no authority or its key is readable by others.
        """
        self.directory = directory
        if not (directory / "ca.pem").exists():
            raise ConfigError(f"{directory}: no authority here; make one with: dpi-probe pki init {directory}")
        self.certificate = load_certificate(directory / "ca.pem", "CA certificate")
        self._key = load_key(directory / "ca.key", "CA key")

    @classmethod
    def init(
        cls,
        directory: Path,
        *,
        core: str = "core",
        dns: Sequence[str] = (),
        ip: Sequence[str] = (),
        probes: Sequence[str] = (),
    ) -> Authority:
        """Make an authority, an empty revocation list, the Core's certificate and those of `probes`.

        `dns` and `ip` are the names under which probes reach the Core; `localhost` and the loopback addresses
        are always among them.

        Raises:
            ConfigError: there is an authority already, or a name is not allowed.
            DpiProbeError: the directory cannot be written.
        """
        for name in (core, *probes):
            check_name(name)
        addresses = [_address(text) for text in ip]
        hosts = [_host(text) for text in dns]
        if (directory / "ca.pem").exists():
            raise ConfigError(
                f"{directory}: holds an authority already; nothing was changed "
                f"(add a probe with: dpi-probe pki issue NAME --dir {directory})"
            )
        _check_lone_key(directory / "ca.key")
        try:
            for path in (directory, directory / "probes", directory / "earlier"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            key = ec.generate_private_key(ec.SECP384R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dpi-probe CA {os.urandom(4).hex()}")])
            now = dt.datetime.now(dt.UTC)
            certificate = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(subject)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - BACKDATE)
                .not_valid_after(now + dt.timedelta(days=CA_DAYS))
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_key_usage(sign_certificates=True), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
                .sign(key, hashes.SHA384())
            )
            with _written_pair(directory / "ca.pem", certificate, key) as pair:
                # An authority without its list is of no use, and would be in the way of the next try: so the list comes
                # first.
                _write_revocations(directory, certificate, key, [], number=1)
                pair.create()
            authority = cls(directory)
        except OSError as error:
            raise _unwritten(error.filename or directory, error) from error
        authority.issue_core(core, dns=hosts, ip=[str(address) for address in addresses])
        for probe in probes:
            authority.issue_probe(probe)
        return authority

    def issue_probe(self, name: str, *, renew: bool = False, days: int = LEAF_DAYS) -> Path:
        """Make a key and certificate for probe `name`; with `renew` the present ones are replaced.

        Raises:
            ConfigError: the probe has a certificate that still holds and `renew` was not asked for.
            DpiProbeError: a file cannot be written.
        """
        check_name(name)
        names = [x509.UniformResourceIdentifier(PROBE_URN + name)]
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        with self._locked():
            path = self.directory / "probes" / f"{name}.pem"
            earlier = self._earlier(path, renew=renew)
            key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
            self._issue(path, earlier, name, key, names, usage, days)
        return path

    def issue_core(
        self,
        name: str = "core",
        *,
        dns: Sequence[str] = (),
        ip: Sequence[str] = (),
        renew: bool = False,
        days: int = LEAF_DAYS,
    ) -> Path:
        """Make the Core's key and certificate; with `renew` the present ones are replaced.

        Raises:
            ConfigError: the Core has a certificate that still holds and `renew` was not asked for.
            DpiProbeError: a file cannot be written.
        """
        check_name(name)
        hosts = dict.fromkeys(_host(text) for text in ["localhost", *dns])
        addresses = dict.fromkeys(_address(text) for text in ["127.0.0.1", "::1", *ip])
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(address) for address in addresses]
        names.append(x509.UniformResourceIdentifier(CORE_URN + name))
        with self._locked():
            path = self.directory / "core.pem"
            earlier = self._earlier(path, renew=renew)
            key = ec.generate_private_key(ec.SECP256R1())
            self._issue(path, earlier, name, key, names, ExtendedKeyUsageOID.SERVER_AUTH, days)
        return path

    def revoke(
        self, name: str, *, earlier_only: bool = False, unreadable: Callable[[ConfigError], None] | None = None
    ) -> list[int]:
        """Put every certificate of probe `name` on the revocation list; returns the serial numbers.

        Certificates that cannot be read, whosever they are, are no reason not to: `unreadable` is told of each.

        Raises:
            ConfigError: no certificate of that name is left to revoke.
            DpiProbeError: the revocation list cannot be written.
        """
        check_name(name)
        with self._locked():
            listed = [entry for entry in self.list(unreadable) if entry.role == "probe" and entry.name == name]
            # A renewal that was cut short leaves the certificate in use in both places.
            kept = {entry.serial for entry in listed if earlier_only and entry.path.parent.name == "probes"}
            serials = list(
                dict.fromkeys(entry.serial for entry in listed if entry.state != "revoked" and entry.serial not in kept)
            )
            if not serials:
                what = "earlier certificates" if earlier_only else "certificates"
                raise ConfigError(
                    f"{name}: all its {what} are revoked already"
                    if listed
                    else f"{name}: no certificate of a probe of that name in {self.directory}; "
                    f"`dpi-probe pki list --dir {shlex.quote(str(self.directory))}` names those that there are"
                )
            present = load_revocations(self.directory / "crl.pem", self.certificate)
            now = dt.datetime.now(dt.UTC)
            fresh = [
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
                for serial in serials
            ]
            number = present.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            try:
                _write_revocations(self.directory, self.certificate, self._key, [*present, *fresh], number=number + 1)
            except OSError as error:
                raise _unwritten(self.directory / "crl.pem", error) from error
        return serials

    def list(self, unreadable: Callable[[ConfigError], None] | None = None) -> list[Issued]:
        """All certificates that the authority's directory holds, by role and name.

        Raises:
            ConfigError: one cannot be read, and there is no `unreadable` to be told of it.
        """
        revocations = load_revocations(self.directory / "crl.pem", self.certificate)
        now = dt.datetime.now(dt.UTC)
        found = []
        for path in [self.directory / "core.pem", *sorted(self.directory.glob("*/*.pem"))]:
            if not path.exists():
                continue
            try:
                certificate = load_certificate(path, "certificate")
            except ConfigError as error:
                if unreadable is None:
                    raise
                unreadable(error)
                continue
            role = role_of(certificate)
            if role is None:
                continue
            state: Literal["valid", "earlier", "expired", "revoked"] = "valid"
            if revocations.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                state = "revoked"
            elif certificate.not_valid_after_utc < now:
                state = "expired"
            elif path.parent.name == "earlier":
                state = "earlier"
            found.append(
                Issued(role[1], role[0], certificate.serial_number, certificate.not_valid_after_utc, state, path)
            )
        return sorted(found, key=lambda entry: (entry.role, entry.name, entry.not_after))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time, whichever process makes it."""
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ConfigError(f"{self.directory}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _earlier(self, path: Path, *, renew: bool) -> Path | None:
        """Where the certificate at `path` is kept when another takes its place; None if there is none.

        Raises:
            ConfigError: it may not be replaced.
        """
        if not path.exists():
            _check_lone_key(path.with_suffix(".key"))
            return None
        certificate = load_certificate(path, "certificate")
        revocations = load_revocations(self.directory / "crl.pem", self.certificate)
        revoked = revocations.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        expired = certificate.not_valid_after_utc < dt.datetime.now(dt.UTC)
        if not (renew or revoked or expired):
            raise ConfigError(f"{path}: exists and still holds; nothing was changed (add --renew to replace it)")
        role = role_of(certificate)
        name = role[1] if role else path.stem
        return self.directory / "earlier" / f"{name}.{certificate.serial_number:040x}.pem"

    def _issue(
        self,
        path: Path,
        earlier: Path | None,
        name: str,
        key: PrivateKey,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        days: int,
    ) -> None:
        now = dt.datetime.now(dt.UTC)
        authority_key = self._key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + dt.timedelta(days=days), self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False)
            .sign(self._key, hashes.SHA384())
        )
        try:
            with _written_pair(path, certificate, key) as pair:
                if earlier is None:
                    pair.create()
                else:
                    pair.replace(earlier)
        except OSError as error:
            raise _unwritten(error.filename or path, error) from error


def _write_revocations(
    directory: Path,
    authority: x509.Certificate,
    key: PrivateKey,
    revoked: Sequence[x509.RevokedCertificate],
    *,
    number: int,
) -> None:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - BACKDATE)
        .next_update(now + dt.timedelta(days=CRL_DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for entry in revoked:
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(key, hashes.SHA384())
    # Readers see the old list or the new one, never a part of one.
    path = directory / "crl.pem"
    with _written(path, signed.public_bytes(serialization.Encoding.PEM)) as temporary:
        temporary.replace(path)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


_HOST = re.compile(
    r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
_HOST_LENGTH = 253


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigError(f"address {text!r}: not an IP address") from error


def _host(text: str) -> str:
    """The host name, if probes could look for it in a certificate."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        raise ConfigError(f"DNS name {text!r}: is an address; give it by --ip")
    if len(text) > _HOST_LENGTH or not _HOST.fullmatch(text):
        raise ConfigError(
            f"DNS name {text!r}: is none; labels of 1 to 63 letters, digits, '-' or '_' with dots between them are "
            "allowed, as in core.example.net (others than ASCII in their xn-- form)"
        )
    return text


def renewal(certificate: x509.Certificate, name: str, directory: Path) -> str:
    """The command that makes the Core's next certificate, for all the hosts that this one is for."""
    options = []
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        options += [
            f" --dns {shlex.quote(host)}" for host in names.get_values_for_type(x509.DNSName) if host != "localhost"
        ]
        addresses = names.get_values_for_type(x509.IPAddress)
        options += [f" --ip {address}" for address in addresses if str(address) not in {"127.0.0.1", "::1"}]
    is_authority = (directory / "ca.key").exists()
    where = shlex.quote(str(directory)) if is_authority else "PKI"
    command = f"dpi-probe pki issue {name} --core --renew --dir {where}{''.join(options)}"
    return command if is_authority else f"{command} (PKI is where ca.key is), and install core.pem and core.key again"


def _pem_key(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _unwritten(path: object, error: OSError) -> DpiProbeError:
    return DpiProbeError(f"cannot write {path}: {error.strerror or error}")


def _check_lone_key(path: Path) -> None:
    """Refuse to go on beside a key that has no certificate: somebody may need it.

    Raises:
        ConfigError: there is one.
    """
    if path.exists():
        raise ConfigError(
            f"{path}: a key without its certificate, {path.with_suffix('.pem').name}; nothing was changed (put the "
            "certificate beside it, or remove the key if nobody needs it)"
        )


@contextlib.contextmanager
def _written(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary file beside `path` that only its owner may read, on disk; what is left of it in the end goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Pair:
    """A certificate and its key under temporary names, and the path of the certificate to be."""

    path: Path
    certificate: Path
    key: Path

    def create(self) -> None:
        """Put both in their places, where there is nothing."""
        os.link(self.key, self.path.with_suffix(".key"))
        try:
            os.link(self.certificate, self.path)
        except BaseException:
            self.path.with_suffix(".key").unlink()
            raise

    def replace(self, earlier: Path) -> None:
        """Put both in the places of those that are there; the certificate that was there stays as `earlier`."""
        # A try that failed may have got so far.
        with contextlib.suppress(FileExistsError):
            os.link(self.path, earlier)
        self.certificate.replace(self.path)
        self.key.replace(self.path.with_suffix(".key"))


@contextlib.contextmanager
def _written_pair(path: Path, certificate: x509.Certificate, key: PrivateKey) -> Iterator[_Pair]:
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    with _written(path.with_suffix(".key"), _pem_key(key)) as new_key, _written(path, pem) as new_certificate:
        yield _Pair(path, new_certificate, new_key)
