// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/health"
	"hallig/appliance/media"
	"hallig/sync/courier"
	"hallig/sync/federation"
	"hallig/sync/inbox"
	"hallig/sync/link"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// This file joins the courier: what travels between boxes on sticks, by command and by itself.

// courierParts is the courier and what the pages say of the last stick.
type courierParts struct {
	*courier.Courier

	hub sync.Mutex // while a stick of the hub is read or written

	mu    sync.Mutex
	facts *health.CourierFacts
	until time.Time // facts are told so long
}

func (b *Box) joinCourier(in *inbox.Inbox, statement []byte) error {
	l := b.exchange.link
	c, err := courier.New(courier.Config{
		Key: b.id.Box, Server: b.id.Server, DB: b.db, Inbox: in, Outbox: l.Outbox(), Codec: l.Codec(), Roster: b.exchange.paired,
		Statement: func() []byte { return statement },
		Learn: func(p peer.Peer) {
			b.learnPeer(context.Background(), p)
		},
		KeyDocument: func(ctx context.Context, server string) []byte {
			docs, err := b.fed.ring.Documents(ctx, server)
			if err != nil || len(docs) == 0 {
				return nil
			}
			return docs[len(docs)-1]
		},
		LearnKeys: func(ctx context.Context, from peer.Peer, document []byte) error {
			return b.fed.ring.Learn(ctx, document, federation.SourceBox+string(from.ID))
		},
		Receipt: func(id peer.ID, k *parcel.Kept) { l.Receipt(id, k) },
		Longer:  l.Longer, Ahead: l.Ahead, Returned: l.Returned,
		Sealed:  func(from peer.ID, p *parcel.Sealed) { b.exchange.relay.Take(from, p) },
		Handler: b.fed.handler,
		Came: func() { // what waits for boxes is asked now
			for _, p := range b.exchange.paired().All() {
				if !l.Reaches(p.Server) {
					b.inReach(p.Server)
				}
			}
		},
		OpenMedia: func(ctx context.Context, id string) (*courier.MediaFile, error) {
			f, err := b.media.Get(ctx, b.id.Server, id)
			if err != nil {
				return nil, err
			}
			return &courier.MediaFile{Type: f.Info.Type, Name: f.Info.Name, Size: f.Info.Size, ReadCloser: f}, nil
		},
		KeepMedia: func(ctx context.Context, server, id, typ, name string, body io.Reader) error {
			return b.media.Cache(ctx, server, id, media.Info{Type: typ, Name: name}, body)
		},
		Observe: b.observeCourier, Log: b.log.With("room", "courier"),
	})
	b.exchange.parts.Courier = c
	return err
}

// observeCourier tells what a stick carries in the running commentary.
func (b *Box) observeCourier(m courier.Moved) {
	if m.Events == 0 {
		b.observe(link.Event{What: m.What, Peer: m.Peer, Transport: "stick", Event: m.Event, Room: m.Room, Bytes: m.Bytes, Note: m.Note})
		return
	}
	b.watchers.tell(admin.Travel{At: time.Now(), What: m.What, Peer: m.Peer.Server, Via: "stick", Bytes: m.Bytes, Count: m.Events})
}

// courier does what `hallig courier` asks for.
func (b *Box) courier(ctx context.Context, order admin.CourierOrder, note func(admin.CourierStep)) (admin.CourierReport, error) {
	if r, done, err := b.sheets(ctx, order); done {
		return r, err
	}
	if !filepath.IsAbs(order.Place) {
		return admin.CourierReport{}, &admin.Refusal{Text: "name the whole path of a folder on the box", DE: "Bitte den ganzen Pfad eines Ordners auf der Box nennen."}
	}
	var last time.Time
	step := func(p courier.Progress) {
		if time.Since(last) > time.Second {
			last = time.Now()
			note(admin.CourierStep(p))
		}
	}
	var r *courier.Report
	var err error
	var from fromHubStick
	var to toHubStick
	switch order.Do {
	case "export":
		if r, err = b.courierExport(ctx, order.Place, courier.Options{Media: order.Media}, step); err == nil && !r.ReadOnly {
			to, err = b.fillHubStick(ctx, order.Place, true)
		}
	case "import":
		if r, err = b.courierImport(ctx, order.Place, step); err == nil {
			from, to, err = b.visitHubStick(ctx, order.Place)
		}
	case "status":
		r, err = b.courierLook(ctx, order.Place)
	default:
		return admin.CourierReport{}, &admin.Refusal{Text: "the courier knows export, import and status", DE: "Der Kurier kennt export, import und status."}
	}
	if err != nil {
		return admin.CourierReport{}, courierRefusal(err)
	}
	out := reportOf(r)
	out.Sentence = sentenceOf(order.Do, r)
	if len(r.Boxes) == 0 && (to.written || from.there) { // what is said of boxes is beside the point
		out.Sentence = health.Sentence{}
	}
	out.Sentence = hubSentence(out.Sentence, from, to)
	return out, nil
}

// courierRefusal says what is wrong in words that help.
func courierRefusal(err error) error {
	switch {
	case errors.Is(err, courier.ErrBusy):
		return &admin.Refusal{Text: "the courier is at work on another stick; try again when it is done", DE: "Der Kurier arbeitet gerade mit einem anderen Stick; bitte gleich noch einmal versuchen."}
	case errors.Is(err, courier.ErrNoCourier):
		return &admin.Refusal{Text: "there is no folder " + courier.Folder + "; fill the stick at another box first, with: hallig courier export FOLDER",
			DE: "Dort gibt es keinen Ordner " + courier.Folder + "; den Stick zuerst an einer anderen Box beladen."}
	case errors.Is(err, fs.ErrNotExist):
		return &admin.Refusal{Text: err.Error() + "; is the stick plugged in and mounted there?", DE: "Den Ordner gibt es nicht. Steckt der Stick?"}
	case errors.Is(err, context.Canceled):
		return err
	}
	return &admin.Refusal{Text: err.Error() + "; nothing is lost: try again, or take another stick", DE: "Das ging nicht: " + err.Error() + ". Es ist nichts verloren: noch einmal versuchen oder einen anderen Stick nehmen."}
}

func (b *Box) courierExport(ctx context.Context, place string, o courier.Options, note func(courier.Progress)) (*courier.Report, error) {
	done, err := b.writable(ctx, place)
	if err != nil {
		return nil, err
	}
	defer done()
	d, err := courier.Open(place, true)
	if err != nil {
		return nil, err
	}
	defer debug.FreeOSMemory() // a small machine has better use for what this took
	r, err := b.exchange.parts.ExportWith(ctx, d, o, note)
	return r, errors.Join(err, d.Close())
}

func (b *Box) courierImport(ctx context.Context, place string, note func(courier.Progress)) (*courier.Report, error) {
	d, err := courier.Open(place, false)
	if err != nil {
		return nil, err
	}
	defer debug.FreeOSMemory()
	r, err := b.exchange.parts.Import(ctx, d, note)
	return r, errors.Join(err, d.Close())
}

// visitHubStick takes what a stick has of the hub, and puts the answer onto it.
func (b *Box) visitHubStick(ctx context.Context, place string) (from fromHubStick, to toHubStick, err error) {
	d, err := courier.Open(place, false)
	if err != nil {
		return from, to, err
	}
	from, err = b.takeHubStick(ctx, d)
	if err = errors.Join(err, d.Close()); err != nil {
		return from, to, err
	}
	to, err = b.fillHubStick(ctx, place, false)
	if courier.IsFull(err) || courier.IsReadOnly(err) {
		from.trouble("Für den Hub ließ sich nichts auf den Stick schreiben: er ist voll oder schreibgeschützt. Platz schaffen oder einen anderen nehmen.", "Nothing for the hub could be written onto the stick: it is full or write-protected. Make room, or take another one.")
		err = nil
	}
	return from, to, err
}

func (b *Box) courierLook(ctx context.Context, place string) (*courier.Report, error) {
	d, err := courier.Open(place, false)
	if err != nil {
		return nil, err
	}
	r, err := b.exchange.parts.Look(ctx, d)
	return r, errors.Join(err, d.Close())
}

func reportOf(r *courier.Report) admin.CourierReport {
	out := admin.CourierReport{Boxes: []admin.CourierBox{}, Full: r.Full, ReadOnly: r.ReadOnly, Bad: r.Bad, BadFiles: r.BadFiles, Foreign: r.Foreign, Bytes: r.Bytes}
	for _, x := range r.Boxes {
		out.Boxes = append(out.Boxes, admin.CourierBox(x))
	}
	return out
}

// sentenceOf says the most important of a report.
func sentenceOf(do string, r *courier.Report) (s health.Sentence) {
	events, known, refused, waiting, bad := 0, 0, 0, 0, 0
	files, large := 0, 0
	for _, x := range r.Boxes {
		events, known, refused, waiting = events+x.Events, known+x.Again, refused+x.Refused, waiting+x.Waiting
		files, large = files+x.Files, large+x.Large
	}
	for _, n := range r.Bad {
		bad += n
	}
	switch do {
	case "export":
		s = health.Sentence{DE: fmt.Sprintf("Neue Nachrichten auf dem Stick: %d.", events), EN: fmt.Sprintf("New messages on the stick: %d.", events)}
		if len(r.Boxes) == 0 {
			s = health.Sentence{DE: "Es ist keine Box gekoppelt, für die etwas mitzugeben wäre.", EN: "No box is paired that something could be carried to."}
		}
	case "import":
		s = health.Sentence{DE: fmt.Sprintf("Neue Nachrichten übernommen: %d.", events), EN: fmt.Sprintf("New messages taken in: %d.", events)}
	default:
		s = health.Sentence{DE: fmt.Sprintf("Wege, für die etwas auf dem Stick liegt: %d.", len(r.Boxes)), EN: fmt.Sprintf("Ways for which something lies on the stick: %d.", len(r.Boxes))}
	}
	for _, more := range []struct {
		when   bool
		de, en string
	}{
		{files > 0, fmt.Sprintf("Bilder und Dateien: %d.", files), fmt.Sprintf("Pictures and files: %d.", files)},
		{large > 0, fmt.Sprintf("Dateien, die zu groß sind und hier bleiben: %d.", large), fmt.Sprintf("Files that are too large and stay here: %d.", large)},
		{r.Full, "Für den Rest ist kein Platz auf dem Stick.", "There is no room on the stick for the rest."},
		{r.ReadOnly, "Der Stick ist schreibgeschützt: es wurde nichts mitgegeben.", "The stick is write-protected: nothing was put on it."},
		{bad > 0, fmt.Sprintf("Beschädigte oder gefälschte Pakete, die nicht zählen: %d.", bad), fmt.Sprintf("Damaged or forged packets that do not count: %d.", bad)},
		{refused > 0, fmt.Sprintf("Abgelehnte Nachrichten: %d.", refused), fmt.Sprintf("Refused messages: %d.", refused)},
		{waiting > 0, "Ein Teil wartet auf etwas, das noch fehlt.", "A part waits for something that is still missing."},
	} {
		if more.when {
			s.DE, s.EN = s.DE+" "+more.de, s.EN+" "+more.en
		}
	}
	return s
}
