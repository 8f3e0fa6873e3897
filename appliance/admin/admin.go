// SPDX-License-Identifier: EUPL-1.2

// Package admin is the local door for whoever runs the box: the health tree, the links, pairing, registration
// tokens. It listens on a Unix socket in the data directory (mode 0600), speaks JSON over HTTP, and serves `hallig VERB`.
//
// It knows nothing by itself: what it shows and does is handed to it as functions, and what it refuses carries the
// next step in its text. Later pages for the browser use the same functions.
package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"time"

	"hallig/appliance/cert"
	"hallig/appliance/health"
)

// Status is all that a box says of itself at one moment.
type Status struct {
	Health     health.Tree `json:"health"`
	ServerName string      `json:"server_name"`
	BoxID      string      `json:"box_id"`
	Version    string      `json:"version"`
	URL        string      `json:"url"`
	Addresses  []string    `json:"addresses,omitempty"` // multiaddresses for pairing where the network hides boxes from each other
	Started    time.Time   `json:"started"`
	Accounts   int         `json:"accounts"`
	Rooms      int         `json:"rooms"`
	Position   int64       `json:"position"` // of the log
	FreeBytes  int64       `json:"free_bytes"`
	Flushes    int64       `json:"flushes"` // of the database, since the start
	Clock      Clock       `json:"clock"`
	SigningKey string      `json:"signing_key"` // id of the key that signs now
	OldKeys    int         `json:"old_keys"`    // retired ones
	// Certificate is what phones and browsers see; nil: the box has no TLS port for them.
	Certificate *Certificate `json:"certificate,omitempty"`
	// NotTaken counts events of other servers that were not taken in since the start, by why: malformed, bad_signature, ...
	NotTaken map[string]int64 `json:"events_not_taken,omitempty"`
	// Conflicts counts what did not survive the end of a partition, since the box was set up: rooms, messages, changes, unshown, followed, stayed.
	Conflicts map[string]int64 `json:"conflicts,omitempty"`
	Peers     []Peer           `json:"peers"`
	Lines     []Line           `json:"lines,omitempty"` // serial lines and radios
	// QuietUntil is until when routine and bulk keep off narrow links after a flash; absent when they do not.
	QuietUntil *time.Time `json:"quiet_until,omitempty"`
	Servers    []Server   `json:"servers"`
	Hub        *Hub       `json:"hub,omitempty"`    // nil: the box has none
	Policy     *Policy    `json:"policy,omitempty"` // nil: the box belongs to no organisation that signs any
	Fleet      *Fleet     `json:"fleet,omitempty"`  // nil: the box belongs to none
	// Carried is what the box carries for others, and has written to boxes that it reaches only over others.
	Carried Carried `json:"carried"`
}

// ConflictCount is one line of Status.Conflicts for people.
type ConflictCount struct {
	De, En string
	N      int64
}

// ConflictCounts puts what was counted in words, the gravest first; what never happened is left out.
func ConflictCounts(counts map[string]int64) (out []ConflictCount) {
	for _, c := range []struct{ what, de, en string }{
		{"rooms", "Räume, in denen etwas nicht bestehen blieb", "Rooms in which something did not stand"},
		{"messages", "Nachrichten von hier, die andere nicht zeigen", "Messages from here that others do not show"},
		{"changes", "Änderungen an Räumen, die nicht mehr gelten", "Changes of rooms that no longer hold"},
		{"unshown", "Nachrichten von anderswo, die diese Box nicht zeigt", "Messages from elsewhere that this box does not show"},
		{"followed", "Menschen, die in einen neuen Raum mitkamen", "People who were brought into a new room"},
		{"stayed", "Menschen, die ein neuer Raum nicht einließ", "People whom a new room did not let in"},
	} {
		if n := counts[c.what]; n > 0 {
			out = append(out, ConflictCount{c.de, c.en, n})
		}
	}
	return out
}

// Carried is what goes by boxes in between.
type Carried struct {
	For     []Parcels        `json:"for,omitempty"`     // sealed parcels of others, by their reader
	Mail    []Parcels        `json:"mail,omitempty"`    // own messages without an answer
	Bytes   int64            `json:"bytes"`             // that For takes on the disk
	Most    int64            `json:"most"`              // that it may take
	Refused map[string]int64 `json:"refused,omitempty"` // parcels that were not taken since the start, by why
}

// Parcels is what is under way to one box.
type Parcels struct {
	Box    string        `json:"box"` // server name where it is known, else the end of the box id
	Count  int           `json:"count"`
	Bytes  int64         `json:"bytes"`
	Oldest time.Duration `json:"oldest"` // nanoseconds that this box has run since the oldest of them came
	Near   bool          `json:"near"`   // a way there is known now
}

// Certificate is how the box shows itself over TLS.
type Certificate = cert.State

// Clock is how a box knows the time.
type Clock struct {
	Time     time.Time `json:"time"`
	Trusted  bool      `json:"trusted"`
	Quality  string    `json:"quality"`
	Source   string    `json:"source"`
	HeardAgo string    `json:"heard_ago"`
	// Notes say what is wrong with sources that should tell the time.
	Notes []health.Sentence `json:"notes,omitempty"`
}

// Peer is a paired box and its links.
type Peer struct {
	ID         string `json:"id"`
	ServerName string `json:"server_name"`
	Name       string `json:"name,omitempty"`
	Carrier    string `json:"carrier,omitempty"` // the transport that carries now; "": out of reach
	Links      []Link `json:"links,omitempty"`
	Queued     int    `json:"queued"`            // events that the peer has not confirmed as kept
	NotHub     string `json:"not_hub,omitempty"` // just paired, while the hub that the configuration names is not paired: its name
}

// Hub is the post office beside the central server, as the box sees it.
type Hub struct {
	ServerName  string    `json:"server_name"`
	Paired      bool      `json:"paired"`
	InReach     bool      `json:"in_reach"`
	Since       time.Time `json:"since"`                  // it is in reach, or is not
	Through     string    `json:"through,omitempty"`      // out of reach itself: the box through which it was heard last, over a line between boxes
	ThroughAt   time.Time `json:"through_at,omitzero"`    // when that was
	Mode        string    `json:"mode"`                   // "sealed": it has no key of the box; "delegate": it may sign in its name, with Key
	ModeTrouble string    `json:"mode_trouble,omitempty"` // why it does not serve the box in that mode
	Key         string    `json:"key,omitempty"`          // id of the second key, which the hub holds; "": it holds none (yet)
	Version     string    `json:"version,omitempty"`      // of its program
	Heard       time.Time `json:"heard,omitzero"`         // last contact
	Told        time.Time `json:"told,omitzero"`          // when it had all that it may answer for the box's users while the box is away
	Waiting     int64     `json:"waiting"`                // transactions that waited for the box there then
	Oldest      time.Time `json:"oldest,omitzero"`        // of these
	Trouble     string    `json:"trouble,omitempty"`
	Others      []string  `json:"others,omitempty"` // while it is not paired: what is paired by code; one of them may be the hub, under its right name
}

// OtherName says what to do when the configuration has another name than the hub that was paired; empty: nothing else is paired.
func (h Hub) OtherName() health.Sentence {
	if h.Paired || len(h.Others) == 0 {
		return health.Sentence{}
	}
	return otherName(h.ServerName, strings.Join(h.Others, ", "))
}

// OtherName says the same of what was just paired; empty: the hub is paired, or none is wanted.
func (p Peer) OtherName() health.Sentence {
	if p.NotHub == "" {
		return health.Sentence{}
	}
	return otherName(p.NotHub, p.ServerName)
}

func otherName(wanted, paired string) health.Sentence {
	return health.Sentence{
		DE: "Die Konfiguration nennt den Hub " + wanted + ", und der ist nicht gekoppelt; gekoppelt: " + paired + ". Ist das der Hub, dann in config.json „hub.server“ berichtigen (in hallig.json „config.hub.server“) und die Box neu starten.",
		EN: "The configuration names the hub " + wanted + ", and that is not paired; paired: " + paired + ". If this is the hub, correct \"hub.server\" in config.json (\"config.hub.server\" in hallig.json) and restart the box.",
	}
}

// Policy is what the box's organisation says for all its boxes.
type Policy struct {
	Serial   int64           `json:"serial"` // of the one in force; 0: none has come yet
	Name     string          `json:"name,omitempty"`
	Settings []PolicySetting `json:"settings"`
	Refused  string          `json:"refused,omitempty"` // why the last one that came was not taken
}

// PolicySetting is one thing that it says.
type PolicySetting struct {
	Name  string `json:"name"` // as in config.json or hallig.json
	Value string `json:"value"`
	Own   bool   `json:"own"` // the box's own configuration says something else, which holds
}

// Fleet is the roster of boxes that the organisation's root has signed.
type Fleet struct {
	Serial   uint64    `json:"serial"`          // 0: none has come yet
	Issued   time.Time `json:"issued,omitzero"` // by the clock of whoever signed it
	Boxes    int       `json:"boxes"`
	Revoked  int       `json:"revoked"`
	Member   bool      `json:"member"`              // this box is listed
	Lost     string    `json:"lost,omitempty"`      // this box was revoked, and why
	NotTaken int64     `json:"not_taken,omitempty"` // rosters since the start that the root has not signed
}

// Link is one way to a peer.
type Link struct {
	Transport     string `json:"transport"`
	Up            bool   `json:"up"`
	BitsPerSecond int    `json:"bits_per_second,omitempty"`
	SentBytes     int64  `json:"sent_bytes"`
	ReceivedBytes int64  `json:"received_bytes"`
}

// Line is a serial line or radio.
type Line struct {
	Name          string          `json:"name"`   // "serial:ttyUSB0"
	Device        string          `json:"device"` // "/dev/ttyUSB0"
	Modem         string          `json:"modem"`
	Band          string          `json:"band,omitempty"`
	Open          bool            `json:"open"`
	Up            bool            `json:"up"`              // somebody answers
	Boxes         []string        `json:"boxes,omitempty"` // paired boxes that it leads to; none while up: who answers is not known, or not paired
	BitsPerSecond int             `json:"bits_per_second"`
	SentBytes     int64           `json:"sent_bytes"`
	ReceivedBytes int64           `json:"received_bytes"`
	Frames        int64           `json:"frames"`                     // sent, repetitions included
	Repeated      int64           `json:"repeated"`                   //
	Refused       int64           `json:"refused"`                    // received ones that were not taken
	ModemRefused  int64           `json:"modem_refused"`              // that the modem did not send
	RSSI          *int            `json:"rssi_dbm,omitempty"`         // of the last frame heard
	SNR           *float64        `json:"snr_db,omitempty"`           //
	Note          string          `json:"note,omitempty"`             // the modem in its own words
	AirLeft       *float64        `json:"air_left_seconds,omitempty"` // that the band's duty cycle still allows this hour; nil: no duty cycle, or no open port
	SendIn        float64         `json:"send_in_seconds,omitempty"`  // until the next frame may go
	Trouble       health.Sentence `json:"trouble,omitzero"`
}

// Stand says in a few words how the line does.
func (l Line) Stand() health.Sentence {
	switch {
	case !l.Open:
		return l.Trouble
	case !l.Up:
		return health.Sentence{DE: "bereit, noch keine Antwort", EN: "ready, no answer yet"}
	case len(l.Boxes) > 0:
		names := strings.Join(l.Boxes, ", ")
		return health.Sentence{DE: "verbunden mit " + names, EN: "connected to " + names}
	}
	return health.Sentence{DE: "es antwortet eine Box, mit der diese (noch) nicht gekoppelt ist", EN: "a box answers that is not paired with this one (yet)"}
}

// AirTime is what is left of the hour's air time; "" where there is no duty cycle, or the port is not open.
func (l Line) AirTime() string {
	if l.AirLeft == nil {
		return ""
	}
	out := fmt.Sprintf("%.1f s of air time left", *l.AirLeft)
	if l.SendIn > 0 {
		out += ", next frame in " + pause(l.SendIn)
	}
	return out
}

// pause is a time in seconds, and from three minutes on in minutes, rounded up.
func pause(seconds float64) string {
	if seconds > 180 {
		return fmt.Sprintf("%.0f min", math.Ceil(seconds/60))
	}
	return fmt.Sprintf("%.0f s", math.Ceil(seconds))
}

// Signal is how well the far end is heard; "" when the modem does not tell.
func (l Line) Signal() string {
	if l.RSSI == nil || l.SNR == nil {
		return ""
	}
	return fmt.Sprintf("%d dBm, SNR %.1f dB", *l.RSSI, *l.SNR)
}

// Server is another homeserver that shares rooms and is reached over HTTPS.
type Server struct {
	Name    string       `json:"name"`
	Queued  int          `json:"queued"`            // events that it has not confirmed
	Coming  int          `json:"coming,omitempty"`  // about as many are still to come from it
	Left    int          `json:"left,omitempty"`    // of Queued, and what devices are sent, with the hub, which brings it also when this box is gone
	Through int          `json:"through,omitempty"` // what the hub has brought since it was given some
	Rooms   []ServerRoom `json:"rooms,omitempty"`   // where something is left, those with most first, some at most
	LastOK  time.Time    `json:"last_ok,omitzero"`
	Trouble string       `json:"trouble,omitempty"`
}

// ServerRoom is what is left of one room.
type ServerRoom struct {
	ID     string `json:"id"`
	Name   string `json:"name,omitempty"`
	Queued int    `json:"queued"`
	Coming int    `json:"coming"`
}

// Title is how people know the room.
func (r ServerRoom) Title() string { return cmp.Or(r.Name, r.ID) }

// UpdateOffer is a newer system that a paired box runs.
type UpdateOffer struct {
	Box     string `json:"box"` // server name
	Version string `json:"version"`
	Release int64  `json:"release"`
}

// PairCode is what one box shows and the other takes.
type PairCode struct {
	Code    string    `json:"code"`
	Expires time.Time `json:"expires"`
}

// Backup is one that was made.
type Backup struct {
	Path   string    `json:"path"`
	Number int       `json:"number"`
	Made   time.Time `json:"made"`
	Bytes  int64     `json:"bytes"` // with the media that it shares with older ones
}

// Travel is one thing that happened to an event or parcel on its way: the running commentary.
type Travel struct {
	At    time.Time `json:"at"`
	What  string    `json:"what"` // "up", "down", "carries", "stands by", "sent", "arrived", "taken", "kept", "asked", "answered"
	Event string    `json:"event,omitempty"`
	Room  string    `json:"room,omitempty"`
	Peer  string    `json:"peer,omitempty"` // server name of the other side
	Via   string    `json:"via,omitempty"`  // "p2p", "serial:ttyUSB0", "https"
	Bytes int       `json:"bytes,omitempty"`
	Count int       `json:"count,omitempty"` // when one line stands for several events
	Note  string    `json:"note,omitempty"`  // the outcome, or what was asked
}

// Options are the box's own functions. All are required.
type Options struct {
	Status   func(context.Context) (Status, error)
	Health   func(context.Context) health.Tree
	Metrics  func(context.Context) (Metrics, error)
	ShowCode func(context.Context) (PairCode, error)
	// Take pairs with the box that shows code; address may be empty (the box is found on the network).
	Take   func(ctx context.Context, code, address string) (Peer, error)
	Forget func(ctx context.Context, boxID string) error
	// NewToken makes a registration token for uses accounts (0: no limit).
	NewToken func(ctx context.Context, uses int, admin bool) (string, error)
	// SetClock says what time it is; zero: the system's clock is right. A time far ahead is asked about (Refusal.Ask) and taken when it is said to be sure.
	SetClock func(ctx context.Context, t time.Time, sure bool) error
	// BackUp makes a backup at a place (a folder), for the given age keys or the configured ones.
	BackUp func(ctx context.Context, place string, recipients []string) (Backup, error)
	// ExportBackups copies the backup that is kept here for another box to a place.
	ExportBackups func(ctx context.Context, server, place string) (Backup, error)
	// RotateKey has the box restart with a new signing key.
	RotateKey func(ctx context.Context) error
	// ConfirmTrial opens the doors of a box that tries out an update. On any other box it does nothing.
	ConfirmTrial func(ctx context.Context) error
	// SigningRequest gives a PKCS #10 request in PEM for the certificate of the box, InstallCertificate takes the answer.
	SigningRequest     func(ctx context.Context) (string, error)
	InstallCertificate func(ctx context.Context, pem string) (Certificate, error)
	// UpdateOffers lists newer systems that boxes in reach run, the newest first; UpdateFrom installs the one of a box, "" the newest.
	UpdateOffers func(ctx context.Context) ([]UpdateOffer, error)
	UpdateFrom   func(ctx context.Context, box string) (UpdateOffer, error)
	// TakeRoster takes a roster of the fleet, FleetLine gives the box's line for the next one.
	TakeRoster func([]byte) (*Fleet, error)
	FleetLine  func() (string, error)
	// Courier exports to a stick, imports from it, or makes and reads sheets with codes; note is told how far it is.
	Courier func(ctx context.Context, order CourierOrder, note func(CourierStep)) (CourierReport, error)
	// Watch hands each Travel to f until ctx ends or f fails.
	Watch func(ctx context.Context, f func(Travel) error) error
	Log   *slog.Logger
}

// Refusal is an error whose text is meant for the operator.
type Refusal struct {
	Text string
	DE   string // the same for German pages; "": Text is in the language of the page
	Ask  bool   // it is done when it is asked for again by somebody who is sure
}

func (r *Refusal) Error() string { return r.Text }

// NewHandler serves the local API. Access is the socket's file mode.
func NewHandler(o Options) http.Handler {
	mux := http.NewServeMux()
	h := &handler{o}
	mux.HandleFunc("GET /status", answer(h, func(r *http.Request) (any, error) { return o.Status(r.Context()) }))
	mux.HandleFunc("GET /health", answer(h, func(r *http.Request) (any, error) { return o.Health(r.Context()), nil }))
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if err := serveMetrics(w, r, o.Metrics); err != nil {
			o.Log.Warn("metrics not told", "err", err)
		}
	})
	mux.HandleFunc("POST /pair/show", answer(h, func(r *http.Request) (any, error) { return o.ShowCode(r.Context()) }))
	mux.HandleFunc("POST /pair/take", answer(h, func(r *http.Request) (any, error) {
		var in struct{ Code, Address string }
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return o.Take(r.Context(), in.Code, in.Address)
	}))
	mux.HandleFunc("POST /pair/forget", answer(h, func(r *http.Request) (any, error) {
		var in struct{ ID string }
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, o.Forget(r.Context(), in.ID)
	}))
	mux.HandleFunc("POST /token", answer(h, func(r *http.Request) (any, error) {
		var in struct {
			Uses  int
			Admin bool
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		token, err := o.NewToken(r.Context(), in.Uses, in.Admin)
		return map[string]string{"token": token}, err
	}))
	mux.HandleFunc("POST /backup", answer(h, func(r *http.Request) (any, error) {
		var in struct {
			To         string
			Recipients []string
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return o.BackUp(r.Context(), in.To, in.Recipients)
	}))
	mux.HandleFunc("POST /backup/export", answer(h, func(r *http.Request) (any, error) {
		var in struct{ Server, To string }
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return o.ExportBackups(r.Context(), in.Server, in.To)
	}))
	mux.HandleFunc("POST /key/rotate", answer(h, func(r *http.Request) (any, error) { return struct{}{}, o.RotateKey(r.Context()) }))
	mux.HandleFunc("POST /trial/confirmed", answer(h, func(r *http.Request) (any, error) { return struct{}{}, o.ConfirmTrial(r.Context()) }))
	mux.HandleFunc("GET /update/offers", answer(h, func(r *http.Request) (any, error) { return o.UpdateOffers(r.Context()) }))
	mux.HandleFunc("POST /update/from", answer(h, func(r *http.Request) (any, error) {
		var in struct{ Box string }
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return o.UpdateFrom(r.Context(), in.Box)
	}))
	mux.HandleFunc("POST /clock", answer(h, func(r *http.Request) (any, error) {
		var in struct {
			Time time.Time
			Sure bool
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if err := o.SetClock(r.Context(), in.Time, in.Sure); err != nil {
			if no := (*Refusal)(nil); errors.As(err, &no) && no.Ask {
				err = &Refusal{Text: no.Text + " If it is right, say it again with --yes."}
			}
			return nil, err
		}
		s, err := o.Status(r.Context())
		return s.Clock, err
	}))
	mux.HandleFunc("POST /cert/request", answer(h, func(r *http.Request) (any, error) {
		text, err := o.SigningRequest(r.Context())
		return map[string]string{"pem": text}, err
	}))
	mux.HandleFunc("POST /cert/install", answer(h, func(r *http.Request) (any, error) {
		var in struct{ PEM string }
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return o.InstallCertificate(r.Context(), in.PEM)
	}))
	mux.HandleFunc("POST /courier", h.courier)
	mux.HandleFunc("GET /fleet/line", answer(h, func(*http.Request) (any, error) {
		line, err := o.FleetLine()
		return struct{ Line string }{line}, err
	}))
	mux.HandleFunc("POST /fleet/roster", answer(h, func(r *http.Request) (any, error) {
		var in struct{ Roster []byte }
		if err := decodeUpTo(r, &in, maxRoster); err != nil {
			return nil, err
		}
		return o.TakeRoster(in.Roster)
	}))
	mux.HandleFunc("GET /watch", h.watch)
	return mux
}

// watch streams the commentary, one JSON value a line, until the reader goes away.
func (h *handler) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	if err := out.Flush(); err != nil {
		return
	}
	err := h.Watch(r.Context(), func(t Travel) error {
		if err := enc.Encode(t); err != nil {
			return err
		}
		return out.Flush()
	})
	if err != nil && r.Context().Err() == nil {
		h.Log.Debug("commentary ended", "err", err)
	}
}

type handler struct{ Options }

// maxRoster is a whole roster of a fleet in base64.
const maxRoster = 2 << 20

func decode(r *http.Request, into any) error { return decodeUpTo(r, into, 64<<10) }

func decodeUpTo(r *http.Request, into any, most int64) error {
	dec := json.NewDecoder(io.LimitReader(r.Body, most))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return &Refusal{Text: "the request is not the JSON that was expected: " + err.Error()}
	}
	return nil
}

func answer(h *handler, f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			text := "the box could not do that; its log says why"
			status := http.StatusInternalServerError
			if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
				text, status = refusal.Text, http.StatusBadRequest
			} else {
				h.Log.Error("local request failed", "path", r.URL.Path, "err", err)
			}
			w.WriteHeader(status)
			v = map[string]string{"error": text}
		}
		if err := json.NewEncoder(w).Encode(v); err != nil {
			h.Log.Debug("answer local request", "err", err)
		}
	}
}
