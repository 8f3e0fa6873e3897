#!/bin/sh
# SPDX-License-Identifier: EUPL-1.2
# seed.sh makes seed.ext4.gz: an empty ext4 of 64 MiB that can grow to 1 TiB; the same bytes each time. Needs mke2fs (e2fsprogs 1.47).
set -eu
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
truncate -s 64M "$t/seed"
E2FSPROGS_FAKE_TIME=1767225600 mke2fs -q -F -t ext4 -b 4096 -J size=16 -m 1 -L perm -U 6b1a5f4e-0c11-4c57-9d0e-00000000000a \
  -O metadata_csum,metadata_csum_seed \
  -E hash_seed=6b1a5f4e-0c11-4c57-9d0e-00000000000b,resize=268435456,lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0 "$t/seed"
gzip -9n <"$t/seed" >seed.ext4.gz
ls -l seed.ext4.gz
