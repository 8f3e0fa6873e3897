// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"slices"

	"hallig/appliance/event"
)

// The forms of version 2 of parcels that are JSON: EDUs (to-device messages, device lists, receipts of more than one), and requests
// with their answers (device keys, one-time keys). Their JSON goes by its shape where that is shorter. Like events, they are read
// again before they are sent.
const (
	formShaped = 2 // of an EDU: number in the queue, type, origin, shape and values
	formHTTP   = 1 // of a request or response: as before, but for target and body
)

// encodeEDU writes an EDU by the shape of its content.
func (s *Session) encodeEDU(w *writer, e *EDU) bool {
	trial := &writer{s: s, before: w.before, two: true}
	trial.uvarint(e.Seq)
	trial.name(e.Type)
	trial.name(e.Origin)
	head := len(trial.b)
	if !trial.writeJSON(logName{}, "", e.Content) || len(trial.b)-head >= len(s.codec.Pack(e.Content)) {
		return false
	}
	r := &reader{b: trial.b, s: s.mirror(), two: true}
	got := r.edu()
	if r.err != nil || len(r.b) > 0 || got.Seq != e.Seq || got.Type != e.Type || got.Origin != e.Origin || !bytes.Equal(got.Content, e.Content) {
		return false
	}
	w.b, w.told = trial.b, trial.told
	return true
}

func (r *reader) edu() *EDU {
	e := &EDU{Seq: r.uvarint(), Type: r.name(), Origin: r.name()}
	_, e.Content = r.readJSON(logName{}, event.MaxSize)
	return e
}

// encodeRequest writes a request that fits one message.
func (s *Session) encodeRequest(w *writer, q *Request) bool {
	return s.encodeHTTP(w, q.Target, q.Body, func(w *writer) {
		w.uvarint(uint64(q.ID))
		w.name(q.To)
		w.name(q.Method)
		w.bool(false)
		w.header(q.Header)
	})
}

// encodeResponse writes a response that fits one message.
func (s *Session) encodeResponse(w *writer, a *Response) bool {
	return s.encodeHTTP(w, "", a.Body, func(w *writer) {
		w.uvarint(uint64(a.ID))
		w.uvarint(uint64(a.Status))
		w.bool(false)
		w.header(a.Header)
	})
}

func (s *Session) encodeHTTP(w *writer, target string, body []byte, head func(*writer)) bool {
	trial := &writer{s: s, before: w.before, two: true}
	head(trial)
	from := len(trial.b)
	trial.simple(target, true)
	if !trial.writeJSON(logName{}, "", body) {
		return false
	}
	plain := writer{s: s}
	plain.httpRest(target, body, false)
	if len(trial.b)-from >= len(plain.b) {
		return false
	}
	r := &reader{b: slices.Clone(trial.b[from:]), s: s.mirror(), two: true}
	if t, b := r.shapedRest(); r.err != nil || len(r.b) > 0 || t != target || !bytes.Equal(b, body) {
		return false
	}
	w.b, w.told = trial.b, trial.told
	return true
}

func (r *reader) shapedRest() (target string, body []byte) {
	target = r.simple(r.uvarint())
	_, body = r.readJSON(logName{}, 1<<20)
	return target, body
}
