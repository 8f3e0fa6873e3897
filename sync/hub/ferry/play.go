// SPDX-License-Identifier: EUPL-1.2

package ferry

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"hallig/sync/hub/api"
	"hallig/sync/parcel"
)

// Word is the box's word for the next Play. It is drawn at random for each.
type Word [8]byte

// Play is what the hub says to the box. Without requests it asks how the box does: whether it is there, what its word is, and what became of an earlier Play whose answer did not come.
type Play struct {
	Word     Word
	About    uint64 // number of that earlier Play; 0: none
	Contact  bool   // the box is to say of itself what it says at a contact
	Requests []Request
	Keys     []string // key documents that the hub has verified, of servers whose keys the box lacked
}

// Request is a request that waited.
type Request struct {
	api.Waited         // Received in milliseconds since 1970; Body with the mark where a part is to stand
	Narrow     bool    // the body has to be put together (Fill)
	Sum        [8]byte // of the body as it was (parcel.SumOf)
	Parts      []Part
}

// Part is an event of a body.
type Part struct {
	ID       [5]byte // the first bytes of the id of an event that the box has, with Text ""
	Text     string  // or the event, without what stands beside it
	Unsigned string  // what the sender wrote beside it, as JSON; "": nothing
}

// Bounds.
const (
	Most       = 100      // requests of one Play
	mostText   = 16 << 20 // of all its texts, unpacked
	mostParts  = 50       // events of one request
	mostKeys   = 20
	mostAnswer = 1 << 20
)

const (
	version = 1

	playContact = 1 << 0
	playAbout   = 1 << 1

	requestSigned = 1 << 0 // the signature stands in the first part
	requestNarrow = 1 << 1
)

// mark stands for an event in a body, and for the signature in an Authorization. It is in no JSON and in no header.
const mark = "\x00"

// Pack gives a Play as it is sealed.
func (p *Play) Pack(c *parcel.Codec) []byte {
	w := &writer{}
	w.byte(version)
	var flags byte
	if p.Contact {
		flags |= playContact
	}
	if p.About != 0 {
		flags |= playAbout
	}
	w.byte(flags)
	w.raw(p.Word[:])
	if p.About != 0 {
		w.raw(binary.BigEndian.AppendUint64(nil, p.About))
	}
	w.number(uint64(len(p.Requests)))
	for i := range p.Requests {
		w.request(&p.Requests[i])
	}
	w.number(uint64(len(p.Keys)))
	for _, doc := range p.Keys {
		w.string(doc)
	}
	return w.close(c)
}

func (w *writer) request(q *Request) {
	auth, sig := cutSignature(q.Authorization)
	var flags byte
	if sig != nil {
		flags |= requestSigned
	}
	if q.Narrow {
		flags |= requestNarrow
	}
	w.byte(flags)
	w.number(uint64(max(q.Received, 0)))
	w.string(q.Method)
	w.string(q.URI)
	w.string(auth)
	w.string(q.Body)
	w.raw(sig)
	if !q.Narrow {
		return
	}
	w.raw(q.Sum[:])
	w.number(uint64(len(q.Parts)))
	for _, e := range q.Parts {
		if w.string(e.Text); e.Text == "" {
			w.raw(e.ID[:])
		}
	}
	for _, e := range q.Parts { // together: they are alike
		w.string(e.Unsigned)
	}
}

// ReadPlay undoes Pack. It refuses what no hub says.
func ReadPlay(c *parcel.Codec, b []byte) (*Play, error) {
	r := open(c, b, mostText)
	if v := r.byte(); r.err == nil && v != version {
		return nil, fmt.Errorf("read what waited at the hub: it has version %d, this box knows %d; update the box", v, version)
	}
	flags := r.byte()
	p := &Play{Contact: flags&playContact != 0}
	copy(p.Word[:], r.take(len(p.Word)))
	if flags&playAbout != 0 {
		p.About = binary.BigEndian.Uint64(r.take(8))
	}
	for range r.count(Most) {
		p.Requests = append(p.Requests, r.request())
	}
	for range r.count(mostKeys) {
		p.Keys = append(p.Keys, r.string())
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("read what waited at the hub: %w", err)
	}
	return p, nil
}

func (r *reader) request() (q Request) {
	flags := r.byte()
	q.Received = int64(r.number() & (1<<63 - 1))
	q.Method, q.URI = r.string(), r.string()
	q.Authorization, q.Body = r.string(), r.string()
	if flags&requestSigned != 0 {
		sig := base64.RawStdEncoding.EncodeToString(r.take(64))
		q.Authorization = strings.Replace(q.Authorization, mark, sig, 1)
	}
	if q.Narrow = flags&requestNarrow != 0; !q.Narrow {
		return q
	}
	copy(q.Sum[:], r.take(len(q.Sum)))
	for range r.count(mostParts) {
		e := Part{Text: r.string()}
		if e.Text == "" {
			copy(e.ID[:], r.take(len(e.ID)))
		}
		q.Parts = append(q.Parts, e)
	}
	for i := range q.Parts {
		q.Parts[i].Unsigned = r.string()
	}
	return q
}

// cutSignature takes the signature out of an Authorization; nil: it stays, since it would not come out as it was.
func cutSignature(auth string) (rest string, sig []byte) {
	before, after, ok := strings.Cut(auth, `sig="`)
	text, after, closed := strings.Cut(after, `"`)
	if !ok || !closed || strings.Contains(auth, mark) {
		return auth, nil
	}
	sig, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil || len(sig) != 64 {
		return auth, nil
	}
	return before + `sig="` + mark + `"` + after, sig
}
