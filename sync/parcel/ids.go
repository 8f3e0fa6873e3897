// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"strings"

	"hallig/appliance/event"
)

// Contents often name other events (replies, reactions, edits, redactions). Such ids are taken out of the JSON, leaving
// a mark, and written as references. The mark is a control character, which JSON never holds as it is.
const (
	idMark     = "\x01"
	maxContent = 32 // ids taken out of one content
)

// takeIDs replaces event ids that stand as whole strings.
func takeIDs(content string, ids []event.ID) (string, []event.ID) {
	if strings.Contains(content, idMark) {
		return content, ids
	}
	var out strings.Builder
	for len(ids) < maxContent {
		i := strings.Index(content, `"$`)
		if i < 0 {
			break
		}
		if _, ok := rawID(content[i+1:min(i+45, len(content))], '$'); !ok || len(content) < i+46 || content[i+45] != '"' {
			out.WriteString(content[:i+2])
			content = content[i+2:]
			continue
		}
		out.WriteString(content[:i+1] + idMark)
		ids = append(ids, event.ID(content[i+1:i+45]))
		content = content[i+45:]
	}
	return out.String() + content, ids
}

// putIDs undoes takeIDs.
func putIDs(content []byte, ids []event.ID) []byte {
	for _, id := range ids {
		content = bytes.Replace(content, []byte(idMark), []byte(id), 1)
	}
	return content
}

// ids writes the events that a content names.
func (w *writer) ids(room event.RoomID, ids []event.ID) {
	for _, id := range ids {
		w.event(w.lookup(room, id), id)
	}
}

// ids reads as many as the content has marks.
func (r *reader) ids(marks int) []event.ID {
	var ids []event.ID
	for range min(marks, maxContent) {
		if r.err != nil {
			return nil
		}
		id, _, _ := r.event()
		ids = append(ids, id)
	}
	return ids
}
