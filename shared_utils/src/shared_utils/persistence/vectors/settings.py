"""What an operator can say about vectors."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from shared_utils.config.layout import Rename
from shared_utils.config.settings import Section, setting
from shared_utils.errors import SettingsError
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.vectors.passages import Metric

VECTOR_RENAMES: Final = (
    Rename("vectors.index.memory", "vectors.index.memory_megabytes"),
    Rename("vectors.index.build_timeout", "vectors.index.build_timeout_seconds"),
    Rename("vectors.sync.rate", "vectors.sync.texts_per_second", ("VECTORS_RATE",)),
    Rename("vectors.sync.sweep_every", "vectors.sync.sweep_interval_seconds"),
)
"""Where a program has these settings in the section ``vectors``."""

_NAME: Final = r"^[a-z_][a-z0-9_]{0,39}$"


class OpenGaussSettings(Section):
    """A database for the vectors alone; without it they are in that of DATABASE_URL."""

    enabled: bool = setting(False, "ENABLE_OPENGAUSS", doc="keep vectors in this database")
    host: str = setting("localhost", "OPENGAUSS_HOST", doc="host", min_length=1)
    port: int = setting(5432, "OPENGAUSS_PORT", doc="port", gt=0, lt=65536)
    database: str = setting("letta", "OPENGAUSS_DATABASE", doc="name of the database; created if it is missing")
    username: str | None = setting(None, "OPENGAUSS_USERNAME", doc="user")
    password: SecretStr | None = setting(None, "OPENGAUSS_PASSWORD", doc="the user's password")
    ssl_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = setting(
        "prefer", "OPENGAUSS_SSL_MODE", doc="as libpq's sslmode"
    )


class IndexSettings(Section):
    """The index by nearness."""

    above: int = setting(10_000, doc="number of passages from which on a table is indexed", ge=0)
    m: int = setting(16, doc="HNSW: neighbours of a passage", ge=2, le=100)
    ef_construction: int = setting(64, doc="HNSW: candidates examined when a passage is inserted", ge=4, le=1000)
    ef_search: int = setting(
        100,
        "VECTORS_EF_SEARCH",
        doc="HNSW: candidates examined in a search; more find more, but slower",
        ge=10,
        le=1000,
    )
    memory_megabytes: int = setting(512, doc="megabytes of the server's memory a build may use", ge=16, le=1_000_000)
    build_timeout_seconds: float = setting(21_600.0, doc="seconds a build may take", gt=0)


class SyncSettings(Section):
    """How the bridge keeps the vectors in step with the journal and with Letta."""

    texts_per_second: float = setting(
        20.0,
        "VECTORS_TEXTS_PER_SECOND",
        doc="texts per second that the embedding model gets, from one bridge at a time",
        gt=0,
    )
    batch: int = setting(16, doc="turns embedded at once; many at once delay replies by milliseconds", ge=1, le=200)
    sweep_interval_seconds: float = setting(
        3600.0, doc="seconds between two comparisons of all vectors with their sources", ge=1
    )


class VectorSettings(Section):
    """Passage embeddings: where and how they are kept."""

    enabled: bool = setting(
        False,
        "VECTORS_ENABLED",
        doc="embed turns and agents' archival memory, and let answers of the short-term memory recall them; needs a "
        "database and embeddings",
    )
    table_name: str = setting(
        "passage_embeddings",
        "OPENGAUSS_TABLE_NAME",
        doc="prefix of the tables' names; each model has a table",
        pattern=_NAME,
    )
    metric: Metric = setting("cosine", doc="distance metric of new tables")
    exact_below: int = setting(
        1000, doc="up to this number of passages in scope and filter, the search is exact", ge=0, le=100_000
    )
    arrays: bool = setting(False, doc="use float8[] and exact search even where the server has a vector type")
    index: IndexSettings = IndexSettings()
    sync: SyncSettings = SyncSettings()
    opengauss: OpenGaussSettings = OpenGaussSettings()


def vector_database(settings: VectorSettings, service: DatabaseConfig) -> DatabaseConfig:
    """The database of the vectors: one of their own, or the service's.

    Raises:
        SettingsError: one of their own is asked for, and its user is not named.
    """
    given = settings.opengauss
    if not given.enabled:
        return service
    if given.username is None:
        raise SettingsError("ENABLE_OPENGAUSS is set without a user; set OPENGAUSS_USERNAME and OPENGAUSS_PASSWORD")
    login = quote(given.username, safe="")
    if given.password is not None:
        login += f":{quote(given.password.get_secret_value(), safe='')}"
    host = f"[{given.host}]" if ":" in given.host else given.host
    query = urlencode({"sslmode": given.ssl_mode})
    url = f"postgresql://{login}@{host}:{given.port}/{quote(given.database, safe='')}?{query}"
    return DatabaseConfig.model_validate({**service.model_dump(), "db_url": SecretStr(url)})
