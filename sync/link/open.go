// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/hub/api"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
)

// Amateur radio allows open language only. Over such a way frames are authenticated and never encrypted (the transport sees to it), the handshake
// proves who is there and hides nothing, and this file keeps away what is encrypted above: rooms encrypted from end to end, messages between
// devices, and requests that are about either. They go by another way as soon as there is one; a way that may carry everything is
// chosen before one that may not, however slow it is. Codec and dictionary are published, so whoever listens can read the rest.

// openOnly says whether a way allows open language only.
func openOnly(t Transport, addr string) bool {
	o, ok := t.(unsealed)
	return ok && o.Open(addr)
}

// better says whether a should carry before b.
func (w *way) better(than *way, active *way) bool {
	if than == nil || (w.mail == nil) != (than.mail == nil) {
		return than == nil || w.mail == nil
	}
	if w.open != than.open {
		return than.open
	}
	return w.bps > than.bps || w.bps == than.bps && w == active
}

// opened takes out of the queues what was meant for a way that may carry everything.
func (f *far) opened() {
	f.dropBodies()
	for i, q := range f.queues {
		var given []entry
		f.queues[i] = slices.DeleteFunc(q, func(e entry) bool {
			if clearParcel(e.p) && e.p.Kind() != parcel.KindEvent {
				return false
			}
			given = append(given, e)
			return true
		})
		for _, e := range given {
			if e.done != nil {
				e.done(false)
			}
		}
	}
}

// clearParcel says whether a parcel is one that everybody may read. It is the last door: what must not go was left out long before.
func clearParcel(p parcel.Parcel) bool {
	switch p := p.(type) {
	case *parcel.Event:
		return p.PDU == nil || p.PDU.Type != "m.room.encrypted"
	case *parcel.EDU:
		return p.Type != "m.direct_to_device" && !bytes.Contains(p.Content, []byte(`"type":"m.room.encrypted"`))
	}
	return p.Kind() != parcel.KindSealed && p.Kind() != parcel.KindSend
}

// clearParcels cuts a message before the first parcel that must not go on a way.
func (f *far) clearParcels(w *way, parcels []parcel.Parcel) []parcel.Parcel {
	if !w.open {
		return parcels
	}
	for i, p := range parcels {
		if !clearParcel(p) {
			return parcels[:i]
		}
	}
	return parcels
}

// Why a request is refused; a client shows it to a person.
const (
	refusedRoom = "Dieser Raum ist Ende-zu-Ende-verschlüsselt und darf nicht über Amateurfunk gehen; er wartet auf einen anderen Weg. / " +
		"This room is end-to-end encrypted and must not go over amateur radio; it waits for another way."
	refusedKeys = "Schlüssel für verschlüsselte Nachrichten dürfen nicht über Amateurfunk gehen. / " +
		"Keys for encrypted messages must not go over amateur radio."
	refusedMedia = "Diese Datei ist verschlüsselt oder ihr Inhalt nicht zu erkennen; über Amateurfunk darf sie nicht gehen. / " +
		"This file is encrypted, or what it holds cannot be told; it must not go over amateur radio."
)

// refuses says why a request must not be asked or answered over open language; "": it may.
func (l *Link) refuses(ctx context.Context, method, target string) (reason string, err error) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return "", nil // the handler says so
	}
	if strings.HasSuffix(u.Path, "/user/keys/claim") || strings.Contains(u.Path, "/sendToDevice/") || strings.HasPrefix(u.Path, sendPath) || u.Path == api.FerriedPath {
		return refusedKeys, nil
	}
	err = l.c.DB.View(ctx, func(r *store.Read) error {
		for part := range strings.SplitSeq(u.Path, "/") {
			id := event.RoomID(part)
			if strings.HasPrefix(part, "$") {
				row, err := r.Event(event.ID(part))
				if row == nil || err != nil {
					return err
				}
				id = row.Room
			}
			if !strings.HasPrefix(string(id), "!") {
				continue
			}
			sealed, err := outbox.Sealed(r, id)
			if err != nil {
				return err
			}
			if sealed && !strings.Contains(u.Path, "_leave/") { // whoever leaves may say so
				reason = refusedRoom
			}
		}
		return nil
	})
	return reason, err
}

// refusal is the answer to a request that was refused.
func refusal(id uint32, reason string) *parcel.Response {
	body, _ := json.Marshal(map[string]string{"errcode": "M_FORBIDDEN", "error": reason}) // strings always marshal
	return &parcel.Response{ID: id, Status: http.StatusForbidden, Body: body}
}

// askOpenly looks whether a request may be asked over open language, beside the loop.
func (f *far) askOpenly(id uint32, a *ask) {
	f.l.work(func(ctx context.Context) func() {
		reason, err := f.l.refuses(ctx, a.request.Method, a.request.Target)
		return func() {
			switch {
			case f.closed || f.asks[id] != a:
			case err != nil:
				f.fail(id, err)
			case reason != "":
				delete(f.asks, id)
				a.answer <- refusal(id, reason)
			default:
				a.clear, a.sent = true, false
				f.pump()
			}
		}
	})
}

// handleOpenly is handle where the answer goes over open language.
func (f *far) handleOpenly(ctx context.Context, q *parcel.Request) *parcel.Response {
	reason, err := f.l.refuses(ctx, q.Method, q.Target)
	if err != nil {
		return &parcel.Response{ID: q.ID, Status: http.StatusInternalServerError}
	}
	if reason != "" {
		return refusal(q.ID, reason)
	}
	r := f.handle(ctx, q)
	if strings.Contains(q.Target, "/media/") && bytes.Contains(bytes.ToLower(r.Body), []byte("application/octet-stream")) {
		return refusal(q.ID, refusedMedia) // what an encrypted file is called
	}
	if bytes.Contains(r.Body, []byte(`"type":"m.room.encrypted"`)) {
		return refusal(q.ID, refusedRoom)
	}
	return r
}
