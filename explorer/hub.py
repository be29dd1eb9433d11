"""What the Hugging Face hub says of a repository, and files of it on this disk. Alone imports huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A repository as it is now."""

    repository: str
    revision: str  # commit
    licence: str
    files: dict[str, int]  # bytes by path

    def within(self, path: str) -> dict[str, int]:
        """The files at or below a path; empty: all of them."""
        return {f: n for f, n in self.files.items() if not path or f == path or f.startswith(path + "/")}


class Hub:
    """endpoint: another hub than the public one."""

    def __init__(self, endpoint: str | None = None) -> None:
        try:
            import huggingface_hub
            from huggingface_hub.errors import HfHubHTTPError
        except ImportError as error:
            raise ValueError(
                'downloads need huggingface_hub: pip install "world-explorer[sana]", '
                "or give files you have with --from DIR"
            ) from error
        self._hub = huggingface_hub
        self._endpoint = endpoint
        web = HfHubHTTPError.__mro__[1]  # of whatever HTTP library it uses: time-outs, refusals
        self._troubles: tuple[type[BaseException], ...] = (web, OSError, ValueError)

    def listing(self, repository: str) -> Listing:
        """Sizes and licence. Raises ValueError where the hub cannot be asked."""
        with self._told(repository):
            info = self._hub.HfApi(endpoint=self._endpoint).model_info(repository, files_metadata=True)
        card = info.card_data
        licence = str((card.get("license_name") or card.get("license") or "") if card else "")
        files = {f.rfilename: int(f.size or 0) for f in info.siblings or ()}
        return Listing(
            repository=repository, revision=info.sha or "main", licence=licence or "not stated", files=files
        )

    def fetch(self, listing: Listing, paths: Sequence[str], folder: Path) -> None:
        """Bring files into `folder`, under their paths. What is there already is not fetched again. ValueError."""
        with self._told(listing.repository):
            self._hub.snapshot_download(
                listing.repository,
                revision=listing.revision,
                allow_patterns=list(paths),
                local_dir=folder,
                endpoint=self._endpoint,
            )

    @contextmanager
    def _told(self, repository: str) -> Iterator[None]:
        """Whatever goes wrong on the way to the hub in one sentence."""
        try:
            yield
        except self._troubles as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"cannot fetch {repository} ({reason}): check the connection and your access to it, "
                "then run the same command again; it goes on where it stopped"
            ) from error
