-- SPDX-License-Identifier: EUPL-1.2

-- Where a paired box was reached last over an IP network, as a multiaddress with its peer id: both boxes may have been off, and on a network that no
-- announcement crosses nothing else says where the other one is.
CREATE TABLE peer_address (
	box     INTEGER PRIMARY KEY REFERENCES box (n),
	address TEXT NOT NULL
) STRICT;
