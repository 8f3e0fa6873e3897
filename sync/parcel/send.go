// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"hallig/appliance/event"
)

// A transaction (PUT /send) that a box has signed for a server beyond the far end carries events that the far end mostly has: they came as parcels before. So it crosses
// without them, as what is its own: where it goes, its id and time, which events and in which order, its EDUs and its signature; some 130 bytes for fifty events in place
// of a dozen kilobytes. The far end puts the body together again, byte for byte: it is canonical JSON, as federation writes it. The sum tells whether it came out; when it did not, or an event is
// not there, the answer is a Response of StatusWhole and the request is made once more, whole. Whether the signature is good is for whoever sends the transaction on.

// KindSend is such a transaction.
const KindSend Kind = 18

// FeatureSend says that a box takes Send.
const FeatureSend uint32 = 1 << 8

// StatusWhole in the Response to a Send: it could not be put together.
const StatusWhole = 0

// maxSent is how many events a transaction has at most.
// https://spec.matrix.org/v1.16/server-server-api/#transactions
const maxSent = 50

// Send is a PUT /send of the box that speaks. ID is as in Request, and is answered by a Response.
type Send struct {
	ID     uint32
	To     string // server name
	Txn    string // transaction id
	Key    string // id of the key of the X-Matrix signature
	Sig    []byte // 64 bytes
	TS     int64  // origin_server_ts
	Events []Entry
	EDUs   []byte // JSON array, as it stands in the body; nil: there is none
	Sum    [8]byte
}

// Entry names an event by its place in a log, or, with the zero LogRef, by its id.
type Entry struct {
	Room event.RoomID
	Log  LogRef
	ID   event.ID
}

// Kind makes it a Parcel.
func (*Send) Kind() Kind { return KindSend }

// Transaction is the body of a PUT /send.
type Transaction struct {
	Origin string
	TS     int64
	PDUs   [][]byte
	EDUs   []byte // nil: there is none
}

// TakeTransaction takes a body apart; false when it would not come out of Body again.
func TakeTransaction(body []byte) (*Transaction, bool) {
	var in struct {
		Origin string            `json:"origin"`
		TS     int64             `json:"origin_server_ts"`
		PDUs   []json.RawMessage `json:"pdus"`
		EDUs   json.RawMessage   `json:"edus"`
	}
	if json.Unmarshal(body, &in) != nil || in.PDUs == nil {
		return nil, false
	}
	t := &Transaction{Origin: in.Origin, TS: in.TS, PDUs: make([][]byte, len(in.PDUs)), EDUs: in.EDUs}
	for i, p := range in.PDUs {
		t.PDUs[i] = p
	}
	return t, bytes.Equal(t.Body(), body)
}

// Body is the transaction as canonical JSON.
func (t *Transaction) Body() []byte {
	size := len(t.EDUs) + len(t.Origin) + 100
	for _, p := range t.PDUs {
		size += len(p) + 1
	}
	b := append(make([]byte, 0, size), '{')
	if t.EDUs != nil {
		b = append(append(append(b, `"edus":`...), t.EDUs...), ',')
	}
	b = appendString(append(b, `"origin":`...), t.Origin)
	b = appendInt(append(b, `,"origin_server_ts":`...), t.TS)
	b = append(b, `,"pdus":[`...)
	for i, p := range t.PDUs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, p...)
	}
	return append(b, "]}"...)
}

// SumOf is what Send.Sum holds of a body.
func SumOf(body []byte) (sum [8]byte) {
	h := sha256.Sum256(body)
	copy(sum[:], h[:])
	return sum
}

// Put puts the body together from its events, in their order, and from the name of the box's server. false: it is not the one that was sent.
func (p *Send) Put(origin string, pdus [][]byte) ([]byte, bool) {
	body := (&Transaction{Origin: origin, TS: p.TS, PDUs: pdus, EDUs: p.EDUs}).Body()
	return body, len(pdus) == len(p.Events) && SumOf(body) == p.Sum
}

// send writes: id, server, transaction id, key, signature, time, sum; the events; the EDUs, packed, to the end.
func (w *writer) send(p *Send) error {
	if len(p.Sig) != 64 || len(p.Events) > maxSent {
		return errors.New("no transaction that can cross without its events")
	}
	w.uvarint(uint64(p.ID))
	w.name(p.To)
	w.text(p.Txn)
	w.name(p.Key)
	w.raw(p.Sig)
	w.varint(p.TS)
	w.raw(p.Sum[:])
	w.entries(p.Events)
	if p.EDUs != nil {
		w.raw(w.s.codec.Pack(p.EDUs))
	}
	return nil
}

func (r *reader) send() *Send {
	p := &Send{ID: uint32(r.uvarint()), To: r.name(), Txn: r.text(), Key: r.name(), Sig: r.take(64), TS: r.varint()}
	copy(p.Sum[:], r.take(len(p.Sum)))
	p.Events = r.entries()
	if r.err == nil && len(r.b) > 0 {
		p.EDUs = r.unpack(r.rest(), maxUnpacked)
	}
	return p
}

// entries writes events as runs: how many, and whether by id; then the ids, or the place of the first and, in turn, how many follow it without a hole and how many numbers the hole then
// takes beyond one.
func (w *writer) entries(es []Entry) {
	w.uvarint(uint64(len(es)))
	for len(es) > 0 {
		n := runOf(es)
		w.uvarint(uint64(n)<<1 | uint64(flags(es[0].Log.Box == "")))
		if es[0].Log.Box == "" {
			for _, e := range es[:n] {
				w.hash(string(e.ID), '$')
			}
		} else {
			w.place(logName{es[0].Room, es[0].Log.Box, es[0].Log.Epoch}, es[0].Log.Seq)
			for i := 0; i < n; {
				next := i + 1
				for next < n && es[next].Log.Seq == es[next-1].Log.Seq+1 {
					next++
				}
				w.uvarint(uint64(next - i - 1))
				if next < n {
					w.uvarint(es[next].Log.Seq - es[next-1].Log.Seq - 2)
				}
				i = next
			}
		}
		es = es[n:]
	}
}

// runOf is how many of the first events are named by ids, or are of one log and rise in it.
func runOf(es []Entry) int {
	n, first := 1, es[0]
	for n < len(es) {
		e := es[n]
		if (e.Log.Box == "") != (first.Log.Box == "") {
			break
		}
		if e.Log.Box != "" && (e.Room != first.Room || e.Log.Box != first.Log.Box || e.Log.Epoch != first.Log.Epoch || e.Log.Seq <= es[n-1].Log.Seq) {
			break
		}
		n++
	}
	return n
}

func (r *reader) entries() (es []Entry) {
	total := r.uvarint()
	if total > maxSent {
		r.fail(errors.New("more events than a transaction has"))
		return nil
	}
	for r.err == nil && uint64(len(es)) < total {
		v := r.uvarint()
		n := v >> 1
		if n == 0 || n > total-uint64(len(es)) {
			r.fail(errors.New("a run of events that cannot be"))
			return nil
		}
		if v&1 != 0 {
			for range n {
				es = append(es, Entry{ID: event.ID(r.hash("$"))})
			}
			continue
		}
		log, seq := r.place()
		for n > 0 && r.err == nil {
			more := r.uvarint() + 1
			if more == 0 || more > n {
				r.fail(errors.New("a run of events that cannot be"))
				return nil
			}
			for range more {
				es = append(es, Entry{Room: log.room, Log: LogRef{log.box, log.epoch, seq}})
				seq++
			}
			if n -= more; n > 0 {
				seq += r.uvarint() + 1
			}
		}
	}
	return es
}

// AuthorizationOf is the X-Matrix header of a signed request, as federation writes it.
// https://spec.matrix.org/v1.16/server-server-api/#request-authentication
func AuthorizationOf(origin, destination, key string, sig []byte) string {
	return `X-Matrix origin="` + origin + `",destination="` + destination + `",key="` + key + `",sig="` + base64.RawStdEncoding.EncodeToString(sig) + `"`
}

// TakeAuthorization takes such a header apart; false when it would not come out of AuthorizationOf again.
func TakeAuthorization(header, origin, destination string) (key string, sig []byte, ok bool) {
	_, rest, _ := strings.Cut(header, `,key="`)
	key, rest, _ = strings.Cut(rest, `",sig="`)
	sig, err := base64.RawStdEncoding.DecodeString(strings.TrimSuffix(rest, `"`))
	return key, sig, err == nil && len(sig) == 64 && AuthorizationOf(origin, destination, key, sig) == header
}
