-- SPDX-License-Identifier: EUPL-1.2
-- How many epochs this box has begun because somebody claimed to have more of its logs than it wrote, and nothing that it had lost came back since. No row: 0.
CREATE TABLE exchange_claim (
	one      INTEGER PRIMARY KEY CHECK (one = 1),
	unproven INTEGER NOT NULL
) STRICT;
