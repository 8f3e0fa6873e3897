// SPDX-License-Identifier: EUPL-1.2

package parcel

// KindBroadcast is one message for several boxes of one channel.
const KindBroadcast Kind = 17

// FeatureBroadcast: takes Broadcast.
const FeatureBroadcast uint32 = 1 << 5

// Broadcast carries events to several boxes at once, in a form that needs no memory of a conversation: Body holds a message of a Session that lives
// for this message only, signed, and encrypted under the key of that number, which each of the boxes was given under the keys of its link. Key 0: open
// language, signed only. Number counts the broadcasts under a key.
type Broadcast struct {
	Key, Number uint32
	Body        []byte
}

// Kind is KindBroadcast.
func (*Broadcast) Kind() Kind { return KindBroadcast }

func (w *writer) broadcast(p *Broadcast) {
	w.uint32(p.Key)
	w.uint32(p.Number)
	w.raw(p.Body)
}

func (r *reader) broadcast() *Broadcast {
	return &Broadcast{Key: r.uint32(), Number: r.uint32(), Body: r.rest()}
}
