// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"hallig/appliance/store"
	"hallig/sync/parcel"
)

// A parcel that was met is known again by all of it that its carriers must not change. Its name alone would not do: nobody but the reader can tell who wrote
// a parcel, so a neighbour that makes up parcels under another box's next numbers would have the true ones taken for known. A proof that carriers can check
// would have to bind the text, and that is a signature: 64 bytes more on each parcel of a hundred. So a forged parcel is just another one: it takes
// of its giver's share, its reader throws it away, and the true one goes its way beside it.

// mark is what a parcel is remembered by: 64 bits under a key of this box alone, so that nobody can make two parcels of one mark.
func (r *Relay) mark(dest, source []byte, p *parcel.Sealed) int64 {
	b := append(append([]byte("parcel"), dest...), source...)
	b = binary.BigEndian.AppendUint64(b, p.From.Epoch)
	b = binary.BigEndian.AppendUint64(b, p.Seq)
	return r.tag(append(b, byte(p.Priority)), p.Body)
}

// giverMark is the same of a giver's key.
func (r *Relay) giverMark(key []byte) int64 { return r.tag([]byte("giver"), key) }

func (r *Relay) tag(head, body []byte) int64 {
	h := hmac.New(sha256.New, r.markKey)
	h.Write(head)
	h.Write(body)
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

// maxMarks is how many parcels are remembered of what one giver has brought: the newest, some 2 MB on the disk. One that was forgotten and comes again is
// carried twice, and read once.
const maxMarks = 1 << 15

// noteMet remembers a parcel. Which are too many is looked at now and then: nobody can choose when.
func (r *Relay) noteMet(tx *store.Tx, mark int64, m store.Met) error {
	if err := tx.SetMark(mark, m); err != nil {
		return err
	}
	if mark%64 != 0 {
		return nil
	}
	return tx.BoundMarks(m.Giver, int(r.c.Limits.Marks))
}

// better says whether a parcel that was met has come with so much better a head that it is taken again: how long it lasts and how far it has come
// its carriers write, and who hands it over as if it were nearly over must not use it up. It must be better by half, for by another way a parcel comes a little
// younger or nearer all the time; so one parcel is taken a few dozen times at most, whatever anybody writes.
func better(is, old store.Met) bool {
	return 2*is.Hops < old.Hops || old.Until > 0 && (is.Until == 0 || is.Until-is.At > 2*max(old.Until-is.At, (old.Until-old.At)/4))
}

// best joins the heads of a parcel that has come again.
func best(is, old store.Met) store.Met {
	is.Hops = min(is.Hops, old.Hops)
	if old.Until == 0 || is.Until > 0 && is.Until < old.Until {
		is.Until = old.Until
	}
	return is
}
