// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// This file takes requests to servers beyond a paired box. A signed transaction crosses without its events (parcel.Send) where the far end has them, and is put together there; where it
// does not come out, it crosses whole. Whether the far end sends a request on, and checks its signature before, is its handler's matter.

// Through takes HTTP requests to servers that a paired box is to send them on to: the host of the URL is the server that is meant. It fails as RoundTripper does.
func (l *Link) Through(box string) http.RoundTripper { return roundTripper{l, box} }

const sendPath = "/_matrix/federation/v1/send/"

// shorten gives a transaction as it crosses without its events; nil: it cannot, and crosses whole.
func (l *Link) shorten(ctx context.Context, q *parcel.Request) *parcel.Send {
	txn, ok := strings.CutPrefix(q.Target, sendPath)
	if !ok || q.Method != http.MethodPut || len(q.Header) != 1 || q.Header[0].Name != "Authorization" {
		return nil
	}
	id, err := url.PathUnescape(txn)
	if err != nil || url.PathEscape(id) != txn {
		return nil
	}
	t, ok := parcel.TakeTransaction(q.Body)
	if !ok || t.Origin != l.c.Server || len(t.EDUs) > 16<<10 {
		return nil
	}
	p := &parcel.Send{To: q.To, Txn: id, TS: t.TS, EDUs: t.EDUs, Sum: parcel.SumOf(q.Body)}
	if p.Key, p.Sig, ok = parcel.TakeAuthorization(q.Header[0].Value, l.c.Server, q.To); !ok {
		return nil
	}
	err = l.c.DB.View(ctx, func(r *store.Read) error {
		logs := map[event.RoomID]store.Log{}
		for _, raw := range t.PDUs {
			e, ok, err := entryOf(r, raw, logs)
			if err != nil || !ok {
				p = nil
				return err
			}
			p.Events = append(p.Events, e)
		}
		return nil
	})
	if err != nil {
		l.log.Warn("a transaction crosses whole", "to", q.To, "err", err)
		return nil
	}
	return p
}

// entryOf names an event of a transaction: by its place in this box's own log, or by its id. false: it is not here.
func entryOf(r *store.Read, raw []byte, logs map[event.RoomID]store.Log) (parcel.Entry, bool, error) {
	id, room, ok, err := identify(r, raw)
	if err != nil || !ok {
		return parcel.Entry{}, false, err
	}
	nid, err := r.EventNID(id)
	if nid == 0 || err != nil {
		return parcel.Entry{}, false, err
	}
	own, known := logs[room]
	if !known {
		all, err := r.Logs(room)
		if err != nil {
			return parcel.Entry{}, false, err
		}
		if len(all) > 0 && all[0].Own {
			own = all[0]
		}
		logs[room] = own
	}
	seq, err := r.OwnPlace(own, nid)
	if err != nil || seq == 0 {
		return parcel.Entry{ID: id}, err == nil, err
	}
	return parcel.Entry{Room: room, Log: parcel.LogRef{Box: peer.ID(own.Box), Epoch: own.Epoch, Seq: seq}}, true, nil
}

// identify finds an event's id, which depends on the version of its room.
func identify(r *store.Read, raw []byte) (id event.ID, room event.RoomID, ok bool, err error) {
	room, ok = roomOf(raw)
	if !ok {
		return "", "", false, nil
	}
	row, err := r.Room(room)
	if row == nil || err != nil {
		return "", "", false, err
	}
	v, ok := event.Lookup(row.Version)
	if !ok {
		return "", "", false, nil
	}
	p, err := event.Parse(v, raw)
	if err != nil {
		return "", "", false, nil // it crosses whole, and whoever it is for says what is wrong with it
	}
	return p.ID, room, true, nil
}

func roomOf(raw []byte) (id event.RoomID, ok bool) {
	event.Each(raw, func(key, val []byte) bool {
		if string(key) == "room_id" && len(val) > 2 {
			id, ok = event.RoomID(val[1:len(val)-1]), true
		}
		return !ok
	})
	return id, ok
}

// put puts a transaction together that a box has signed; nil: an event is not here, or it does not come out as it was.
func (l *Link) put(ctx context.Context, from peer.Peer, p *parcel.Send) (*parcel.Request, error) {
	var body []byte
	ok := false
	err := l.c.DB.View(ctx, func(r *store.Read) error {
		pdus := make([][]byte, 0, len(p.Events))
		for _, e := range p.Events {
			raw, err := rawOf(r, from, e)
			if raw == nil || err != nil {
				return err
			}
			pdus = append(pdus, raw)
		}
		body, ok = p.Put(from.Server, pdus)
		return nil
	})
	if err != nil || !ok {
		return nil, err
	}
	return &parcel.Request{ID: p.ID, To: p.To, Method: http.MethodPut, Target: sendPath + url.PathEscape(p.Txn),
		Header: []parcel.Field{{Name: "Authorization", Value: parcel.AuthorizationOf(from.Server, p.To, p.Key, p.Sig)}}, Body: body}, nil
}

// rawOf finds an event; nil: it is not here, or is none that the box may be told of. A box learns by the answer whether an event is here, so only its own count, and those of rooms that it is in.
func rawOf(r *store.Read, from peer.Peer, e parcel.Entry) ([]byte, error) {
	var row *store.Event
	var err error
	if e.Log.Box == "" {
		row, err = r.Event(e.ID)
	} else {
		var log store.Log
		var there bool
		if log, there, err = r.LogOf(e.Room, string(e.Log.Box), e.Log.Epoch); err != nil || !there || e.Log.Seq == 0 {
			return nil, err
		}
		var es []store.LogEntry
		if es, err = r.LogEntries(log.N, e.Log.Seq-1, 1); err != nil || len(es) == 0 || es[0].Seq != e.Log.Seq || es[0].Event == 0 {
			return nil, err
		}
		row, err = r.EventByNID(es[0].Event)
	}
	if row == nil || err != nil {
		return nil, err
	}
	if row.Sender.Server() == from.Server {
		return row.JSON, nil
	}
	members, err := r.JoinedOf(row.Room, from.Server)
	if members == 0 || err != nil {
		return nil, err
	}
	return row.JSON, nil
}

// takeSend takes a transaction without its events.
func (f *far) takeSend(p *parcel.Send) {
	if f.serving[p.ID] != nil {
		f.serve(&parcel.Request{ID: p.ID}) // asked once more: the same answer
		return
	}
	f.l.work(func(ctx context.Context) func() {
		q, err := f.l.put(ctx, f.p, p)
		if err != nil {
			f.l.log.Warn("a transaction is asked for whole", "peer", f.p.Server, "err", err)
		}
		return func() {
			switch {
			case f.closed:
			case q != nil && !(f.active != nil && f.active.open):
				f.serve(q)
			default:
				f.sure(parcel.Priority, &parcel.Response{ID: p.ID, Status: parcel.StatusWhole})
			}
			f.pump()
		}
	})
}
