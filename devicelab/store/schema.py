"""The ledger's tables, and how a ledger of an older version becomes one of the newest.

``user_version`` of a file counts the steps of :data:`STEPS` that it has been through; a new file goes through
all of them. A step that has been released is never edited: what changes comes as a further step.

The database itself refuses what must never be: two accepted updates of one client in one round, an update of
somebody who is not in the cohort, two open rounds, an end without a time, a state that does not exist.
"""

from __future__ import annotations

from typing import Final

__all__ = ["APPLICATION_ID", "STEPS"]

APPLICATION_ID: Final = 0x646C6162  # "dlab"

_FIRST: Final = """
CREATE TABLE run (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    id TEXT NOT NULL CHECK (id <> ''),
    name TEXT NOT NULL,
    seed TEXT NOT NULL,                      -- decimal: seeds may have 64 bits and more
    experiment TEXT NOT NULL,
    plan_sha256 TEXT NOT NULL CHECK (length(plan_sha256) = 64),
    files TEXT NOT NULL CHECK (json_valid(files)),
    versions TEXT NOT NULL CHECK (json_valid(versions)),
    created REAL NOT NULL
) STRICT;

CREATE TABLE devices (
    identity TEXT PRIMARY KEY CHECK (identity <> ''),
    serial TEXT NOT NULL,
    facts TEXT NOT NULL CHECK (json_valid(facts))
) STRICT, WITHOUT ROWID;

CREATE TABLE rounds (
    number INTEGER PRIMARY KEY CHECK (number >= 1),
    state TEXT NOT NULL CHECK (state IN ('selecting', 'configured', 'training', 'collecting', 'aggregated',
                                         'checkpointed', 'failed')),
    attempt INTEGER NOT NULL DEFAULT 1 CHECK (attempt >= 1),
    seed TEXT,
    started REAL NOT NULL,
    ended REAL,
    reason TEXT NOT NULL DEFAULT '',
    CHECK ((ended IS NOT NULL) = (state IN ('checkpointed', 'failed'))),
    CHECK (state <> 'failed' OR reason <> '')
) STRICT;
CREATE UNIQUE INDEX one_round_is_open ON rounds (state NOT IN ('checkpointed', 'failed'))
    WHERE state NOT IN ('checkpointed', 'failed');

CREATE TABLE cohort (
    round INTEGER NOT NULL REFERENCES rounds (number),
    client TEXT NOT NULL CHECK (client <> ''),
    device TEXT NOT NULL CHECK (device <> ''),
    examples INTEGER NOT NULL CHECK (examples >= 0),
    place INTEGER NOT NULL,                  -- in the order of the cohort
    PRIMARY KEY (round, client)
) STRICT, WITHOUT ROWID;

CREATE TABLE exclusions (
    id INTEGER PRIMARY KEY,
    round INTEGER NOT NULL REFERENCES rounds (number),
    device TEXT NOT NULL,
    reason TEXT NOT NULL CHECK (reason <> ''),
    clients TEXT NOT NULL CHECK (json_valid(clients)),
    UNIQUE (round, device, reason, clients)
) STRICT;

CREATE TABLE jobs (
    id TEXT PRIMARY KEY CHECK (id <> ''),
    round INTEGER NOT NULL REFERENCES rounds (number),
    device TEXT NOT NULL CHECK (device <> ''),
    verb TEXT NOT NULL CHECK (verb IN ('train', 'evaluate')),
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    state TEXT NOT NULL CHECK (state IN ('planned', 'pushed', 'started', 'done', 'collected', 'committed',
                                         'removed', 'late', 'rejected', 'failed')),
    reason TEXT NOT NULL DEFAULT '',
    gone INTEGER NOT NULL DEFAULT 0 CHECK (gone IN (0, 1)),  -- nothing of it is on the device
    clients TEXT NOT NULL CHECK (json_valid(clients)),
    payload TEXT NOT NULL CHECK (json_valid(payload)),
    result TEXT CHECK (result IS NULL OR json_valid(result)),
    bytes_sent INTEGER NOT NULL DEFAULT 0 CHECK (bytes_sent >= 0),
    bytes_received INTEGER NOT NULL DEFAULT 0 CHECK (bytes_received >= 0),
    created REAL NOT NULL,
    changed REAL NOT NULL,
    UNIQUE (id, round),
    CHECK (state <> 'removed' OR gone = 1),
    CHECK (state NOT IN ('late', 'rejected', 'failed') OR reason <> '')
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_of_a_round ON jobs (round);

CREATE TABLE updates (
    id INTEGER PRIMARY KEY,
    round INTEGER NOT NULL,
    client TEXT NOT NULL,
    job TEXT NOT NULL,
    accepted INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    reason TEXT NOT NULL DEFAULT '',
    blob TEXT CHECK (blob IS NULL OR length(blob) = 64),
    kept INTEGER NOT NULL DEFAULT 1 CHECK (kept IN (0, 1)),  -- whether the blob still is to be there
    examples INTEGER NOT NULL CHECK (examples >= 0),
    weight REAL,
    loss_before REAL,
    loss_after REAL,
    norm REAL,
    clipped INTEGER NOT NULL CHECK (clipped IN (0, 1)),
    metrics TEXT NOT NULL CHECK (json_valid(metrics)),
    created REAL NOT NULL,
    UNIQUE (job, client),
    FOREIGN KEY (round, client) REFERENCES cohort (round, client),
    FOREIGN KEY (job, round) REFERENCES jobs (id, round),
    CHECK (accepted = 0 OR (blob IS NOT NULL AND weight IS NOT NULL AND weight > 0)),
    CHECK (accepted = 1 OR reason <> '')
) STRICT;
CREATE UNIQUE INDEX a_client_counts_once ON updates (round, client) WHERE accepted;
CREATE INDEX updates_by_blob ON updates (blob);

CREATE TABLE evaluations (
    round INTEGER NOT NULL CHECK (round >= 0),
    place TEXT NOT NULL CHECK (place IN ('devices', 'host')),
    examples INTEGER NOT NULL CHECK (examples >= 0),
    metrics TEXT NOT NULL CHECK (json_valid(metrics)),
    created REAL NOT NULL,
    PRIMARY KEY (round, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    round INTEGER PRIMARY KEY CHECK (round >= 0),
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
    bytes INTEGER NOT NULL,
    server_state TEXT CHECK (server_state IS NULL OR length(server_state) = 64),  -- a blob
    created REAL NOT NULL
) STRICT;

CREATE TABLE phases (
    round INTEGER NOT NULL REFERENCES rounds (number),
    job TEXT NOT NULL DEFAULT '',            -- '': the host's own
    phase TEXT NOT NULL CHECK (phase <> ''),
    started REAL NOT NULL,
    seconds REAL NOT NULL CHECK (seconds >= 0),
    PRIMARY KEY (round, job, phase)
) STRICT, WITHOUT ROWID;

CREATE TABLE samples (
    job TEXT NOT NULL REFERENCES jobs (id),
    time REAL NOT NULL,
    battery_percent REAL,
    battery_celsius REAL,
    thermal_status TEXT,
    PRIMARY KEY (job, time)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    round INTEGER,
    device TEXT,
    kind TEXT NOT NULL CHECK (kind <> ''),
    text TEXT NOT NULL
) STRICT;
"""

_SECOND: Final = """
ALTER TABLE run ADD COLUMN rounds INTEGER CHECK (rounds >= 1);  -- how many were last asked for
"""

_THIRD: Final = """
CREATE TABLE releases (                      -- noisy means: what is private of a round has left it, once
    round INTEGER PRIMARY KEY REFERENCES rounds (number),
    blob TEXT NOT NULL CHECK (length(blob) = 64),
    kept INTEGER NOT NULL DEFAULT 1 CHECK (kept IN (0, 1)),  -- whether the blob still is to be there
    sampling REAL NOT NULL CHECK (sampling > 0 AND sampling <= 1),
    expected REAL NOT NULL CHECK (expected > 0),
    clip_norm REAL NOT NULL CHECK (clip_norm > 0),
    noise_multiplier REAL NOT NULL CHECK (noise_multiplier > 0),
    delta REAL NOT NULL CHECK (delta > 0 AND delta < 1),
    epsilon REAL NOT NULL CHECK (epsilon >= 0),  -- of all releases up to this one
    created REAL NOT NULL
) STRICT;
"""

STEPS: Final = (_FIRST, _SECOND, _THIRD)
