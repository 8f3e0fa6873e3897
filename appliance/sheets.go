// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hallig/appliance/admin"
	"hallig/appliance/event"
	"hallig/appliance/health"
	"hallig/appliance/store"
	"hallig/sync/courier"
	"hallig/sync/peer"
)

// This file is the courier's sheets of paper: messages as QR codes.

// sheets does what has to do with sheets; done is false for everything else.
func (b *Box) sheets(ctx context.Context, order admin.CourierOrder) (out admin.CourierReport, done bool, err error) {
	switch order.Do {
	case "rooms":
		out.Rooms, err = b.sheetRooms(ctx)
	case "sheet":
		out, err = b.makeSheet(ctx, order)
	case "read":
		var r *courier.Report
		if r, err = b.exchange.parts.ReadSheet(ctx, order.Text); err == nil {
			out = reportOf(r)
			out.Sentence = sentenceOf("import", r)
		}
	default:
		return out, false, nil
	}
	if err != nil {
		return admin.CourierReport{}, true, sheetRefusal(err)
	}
	return out, true, nil
}

func (b *Box) makeSheet(ctx context.Context, order admin.CourierOrder) (admin.CourierReport, error) {
	room, err := b.sheetRoom(ctx, order.Room)
	if err != nil {
		return admin.CourierReport{}, err
	}
	p, ok := b.exchange.paired().ByServer(order.Box)
	if !ok {
		p, ok = b.exchange.paired().ByID(peer.ID(order.Box))
	}
	if !ok {
		return admin.CourierReport{}, errNoSuchBox
	}
	texts, events, left, err := b.exchange.parts.Sheet(ctx, p, room, order.Codes, order.Plain)
	if err != nil {
		return admin.CourierReport{}, err
	}
	out := admin.CourierReport{Boxes: []admin.CourierBox{{Server: p.Server, Events: events}}, Codes: texts, Left: left, Sentence: health.Sentence{
		DE: fmt.Sprintf("Nachrichten für %[2]s: %[1]d. An der anderen Box einlesen: Verwaltung, Boxen, Blatt.", events, p.Server),
		EN: fmt.Sprintf("Messages for %[2]s: %[1]d. Read it in at the other box: administration, boxes, sheet.", events, p.Server),
	}}
	if left {
		out.Sentence.DE += " Es gibt noch mehr: erst dieses Blatt einlesen lassen, dann mehr Codes nehmen oder einen Stick."
		out.Sentence.EN += " There is more: have this sheet read in first, then take more codes, or a stick."
	}
	return out, nil
}

// sheetRoom finds the room that is meant, by its id or by a name that only one room has.
func (b *Box) sheetRoom(ctx context.Context, word string) (event.RoomID, error) {
	rooms, err := b.sheetRooms(ctx)
	if err != nil {
		return "", err
	}
	var named, list []string
	for _, r := range rooms {
		if r.ID == word {
			return event.RoomID(word), nil
		}
		if r.Name == word {
			named = append(named, r.ID)
		}
		label := r.ID
		if r.Name != r.ID {
			label = r.Name + " (" + r.ID + ")"
		}
		list = append(list, label)
	}
	if len(list) > 10 {
		list = append(list[:10], "...")
	}
	all, which := strings.Join(list, ", "), strings.Join(named, ", ")
	switch {
	case len(named) == 1:
		return event.RoomID(named[0]), nil
	case len(named) > 1:
		return "", &admin.Refusal{Text: fmt.Sprintf("several rooms are called %s; name one by its id: %s", word, which),
			DE: fmt.Sprintf("Mehrere Räume heißen %s; bitte die Kennung des einen angeben: %s", word, which)}
	case len(rooms) == 0:
		return "", &admin.Refusal{Text: "this box has no rooms yet", DE: "Diese Box hat noch keine Räume."}
	}
	return "", &admin.Refusal{Text: fmt.Sprintf("this box has no room %s; it has: %s", word, all), DE: fmt.Sprintf("Diese Box hat keinen Raum %s; sie hat: %s", word, all)}
}

// sheetRooms lists the rooms with their names.
func (b *Box) sheetRooms(ctx context.Context) (out []admin.CourierRoom, err error) {
	err = b.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.Rooms()
		if err != nil {
			return err
		}
		for _, id := range rooms {
			name := string(id)
			if e, err := r.CurrentStateEvent(id, "m.room.name", ""); err != nil {
				return err
			} else if e != nil {
				var body struct {
					Content struct{ Name string }
				}
				if json.Unmarshal(e.JSON, &body) == nil && body.Content.Name != "" {
					name = body.Content.Name
				}
			}
			out = append(out, admin.CourierRoom{ID: string(id), Name: name})
		}
		return nil
	})
	slices.SortFunc(out, func(a, b admin.CourierRoom) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// sheetRefusal says what is wrong with a sheet in words that help.
func sheetRefusal(err error) error {
	var missing *courier.MissingPart
	var said *admin.Refusal
	switch {
	case errors.As(err, &said):
		return said
	case errors.As(err, &missing):
		return &admin.Refusal{Text: err.Error() + "; scan it as well", DE: fmt.Sprintf("Code %d von %d fehlt; bitte auch ihn einlesen.", missing.Part, missing.Of)}
	case errors.Is(err, courier.ErrNoSheet):
		return &admin.Refusal{Text: err.Error() + "; each code begins with HALLIG:", DE: "Das ist nicht der Text eines Blatts; jeder Code beginnt mit HALLIG:"}
	case errors.Is(err, courier.ErrForged):
		return &admin.Refusal{Text: err.Error() + ", or its box is not paired with this one", DE: "Das Blatt ist nicht für diese Box, wurde verändert, oder seine Box ist mit dieser nicht gekoppelt."}
	case errors.Is(err, courier.ErrModel):
		return &admin.Refusal{Text: err.Error() + "; bring both to one version, or make the sheet with --plain", DE: "Die andere Box hat eine andere Programmversion. Beide auf einen Stand bringen, oder das Blatt dort „für ältere Boxen“ machen."}
	case errors.Is(err, courier.ErrNothingDue):
		return &admin.Refusal{Text: err.Error(), DE: "Die andere Box hat, soweit diese weiß, schon alles aus diesem Raum, oder ist nicht in ihm."}
	case errors.Is(err, errNoSuchBox):
		return &admin.Refusal{Text: "no such box is paired; hallig status lists them", DE: "Diese Box ist nicht gekoppelt."}
	}
	return courierRefusal(err)
}
