// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"encoding/base64"
	"strings"
)

// HTTP header fields travel as name and value. The signature of a request between servers is most of the header; its
// common form is taken apart, so that it costs its 64 bytes and three numbers.
// https://spec.matrix.org/v1.16/server-server-api/#request-authentication

func (w *writer) header(fields []Field) {
	w.uvarint(uint64(len(fields)))
	for _, f := range fields {
		if a, ok := parseXMatrix(f); ok {
			w.byte(1)
			w.name(a.origin)
			w.name(a.destination)
			w.name(a.key)
			w.raw(a.sig)
			continue
		}
		w.byte(0)
		w.name(f.Name)
		if f.Name == "Content-Type" || f.Name == "Accept" {
			w.byte(0)
			w.name(f.Value)
			continue
		}
		w.byte(1)
		w.text(f.Value)
	}
}

func (r *reader) header() []Field {
	var fields []Field
	for range r.count() {
		if r.err != nil {
			return nil
		}
		if r.byte() == 1 {
			a := xMatrix{origin: r.name(), destination: r.name(), key: r.name(), sig: r.take(64)}
			fields = append(fields, a.field())
			continue
		}
		f := Field{Name: r.name()}
		if r.byte() == 0 {
			f.Value = r.name()
		} else {
			f.Value = r.text()
		}
		fields = append(fields, f)
	}
	return fields
}

type xMatrix struct {
	origin, destination, key string
	sig                      []byte
}

func (a xMatrix) field() Field {
	return Field{"Authorization", `X-Matrix origin="` + a.origin + `",destination="` + a.destination + `",key="` + a.key +
		`",sig="` + base64.RawStdEncoding.EncodeToString(a.sig) + `"`}
}

// parseXMatrix accepts only what field would write again in the very same way.
func parseXMatrix(f Field) (xMatrix, bool) {
	rest, ok := strings.CutPrefix(f.Value, "X-Matrix ")
	if !ok || f.Name != "Authorization" {
		return xMatrix{}, false
	}
	var a xMatrix
	for part := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(part, "=")
		v = strings.Trim(v, `"`)
		switch k {
		case "origin":
			a.origin = v
		case "destination":
			a.destination = v
		case "key":
			a.key = v
		case "sig":
			a.sig, _ = base64.RawStdEncoding.DecodeString(v)
		}
	}
	return a, len(a.sig) == 64 && a.field() == f
}
