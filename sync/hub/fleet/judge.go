// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"fmt"
	"math"
	"slices"
	"time"

	"hallig/appliance/health"
)

// Trouble is one thing that is not as it should be, with the next step.
type Trouble struct {
	Kind  string          `json:"kind"` // of Kinds; the hub's own: disk, copies
	State health.State    `json:"state"`
	What  health.Sentence `json:"what"`
	Next  health.Sentence `json:"next"`
}

// Kinds are what may be wrong with a box.
var Kinds = []string{"silent", "certificate", "full", "clock", "key_document", "version", "policy", "keys", "health"}

// When something is told, and when it is trouble.
const (
	day          = 24 * time.Hour
	silentLook   = 2 * day
	silentBad    = 14 * day
	clockOff     = time.Minute
	clockBad     = 24 * time.Hour // beyond it papers that are good look as if they had ended
	endsLook     = 14 * day       // key documents and certificates
	endsBad      = 5 * day
	fullLook     = 0.8
	fullBad      = 0.95
	diskLook     = 0.1
	diskBad      = 0.03
	versionsLook = 2
)

// Judge says of the hub and each box what is wrong, and puts the boxes in order: trouble first.
func Judge(s *State, now time.Time) {
	s.Hub.Troubles = judgeHub(s.Hub)
	for i := range s.Boxes {
		b := &s.Boxes[i]
		b.Troubles, b.State = []Trouble{}, health.OK
		if b.Revoked != "" {
			continue
		}
		for _, look := range []func(Box, time.Time) (Trouble, bool){silent, certificate, full, clock, keyDocument, version, policed, keys, own} {
			if t, ok := look(*b, now); ok {
				b.Troubles = append(b.Troubles, t)
			}
		}
		worstFirst(b.Troubles)
		if len(b.Troubles) > 0 {
			b.State = b.Troubles[0].State
		}
	}
	order(s.Boxes)
}

func worstFirst(ts []Trouble) {
	slices.SortStableFunc(ts, func(a, b Trouble) int {
		if a.State == b.State {
			return 0
		}
		if a.State == health.Trouble {
			return -1
		}
		return 1
	})
}

// told makes a trouble; bad says that it is more than something to look at.
func told(kind string, bad bool, what, next health.Sentence) (Trouble, bool) {
	t := Trouble{Kind: kind, State: health.Look, What: what, Next: next}
	if bad {
		t.State = health.Trouble
	}
	return t, true
}

func say(de, en string) health.Sentence { return health.Sentence{DE: de, EN: en} }

func judgeHub(h Hub) []Trouble {
	out := []Trouble{}
	if free := float64(h.DiskFree) / float64(h.DiskSize); h.DiskSize > 0 && free < diskLook {
		t, _ := told("disk", free < diskBad, say(fmt.Sprintf("Die Platte des Hubs ist zu %.0f %% voll.", 100*(1-free)), fmt.Sprintf("The hub's disk is %.0f %% full.", 100*(1-free))),
			say("Platz schaffen, oder Boxen in Kontakt bringen, für die viel wartet: Was nicht aufgehoben werden kann, nimmt der Hub nicht an.", "Make room, or bring boxes in contact for which much waits: what cannot be kept the hub does not take."))
		out = append(out, t)
	}
	if h.Copies.Full {
		t, _ := told("copies", false, say("Von den Räumen der Boxen wird nichts Neues mehr kopiert, damit die Platte für das bleibt, was auf Boxen wartet.", "No more is copied of the boxes' rooms, to leave the disk to what waits for boxes."),
			say("Platz schaffen: Fragen nach Neuem in diesen Räumen bleiben unbeantwortet, solange die Box weg ist.", "Make room: questions about what is new in these rooms go unanswered while their box is away."))
		out = append(out, t)
	}
	if h.Files.Full && !h.Copies.Full {
		t, _ := told("copies", false, say("Dateien der Boxen werden nicht mehr aufgehoben, damit die Platte für das bleibt, was auf Boxen wartet.", "Files of boxes are kept no more, to leave the disk to what waits for boxes."),
			say("Platz schaffen: Fotos sind nicht zu haben, solange die Box weg ist.", "Make room: photos are not to be had while their box is away."))
		out = append(out, t)
	}
	return out
}

func silent(b Box, now time.Time) (Trouble, bool) {
	next := say("Nachsehen, ob sie an ist und TCP 4001 dieses Hubs erreicht; ihre Seite „Boxen“ (oder hallig status) sagt, was sie vom Hub weiß. Ist sie verloren, hier abweisen.",
		"See that it is on and reaches TCP 4001 of this hub; its page Boxes (or hallig status) says what it knows of the hub. If it is lost, turn it away here.")
	switch away := now.Sub(b.Seen); {
	case b.Connected:
		return Trouble{}, false
	case b.Seen.IsZero():
		return told("silent", false, say("War noch nie in Kontakt.", "Has never been in contact."), next)
	case away > silentLook:
		return told("silent", away > silentBad, say(fmt.Sprintf("Seit %d Tagen nicht gehört.", int(away/day)), fmt.Sprintf("Not heard for %d days.", int(away/day))), next)
	}
	return Trouble{}, false
}

// Off is by how much the box's clock led at its last contact.
func (b Box) Off() time.Duration {
	if b.Said.Clock == 0 || b.Seen.IsZero() {
		return 0
	}
	return time.UnixMilli(b.Said.Clock).Sub(b.Seen).Round(time.Second)
}

func clock(b Box, _ time.Time) (Trouble, bool) {
	off := b.Off()
	switch {
	case off.Abs() > clockOff:
		return told("clock", b.Said.ClockGood || off.Abs() > clockBad,
			say("Ihre Uhr geht "+span(off, true)+".", "Its clock is "+span(off, false)+"."),
			say("An der Box die Uhr stellen (Seite „Uhr“ oder hallig clock) und sehen, woher sie die Zeit nimmt; stimmt sie, geht die Uhr dieses Hubs falsch.",
				"Set the clock on the box (page Clock, or hallig clock) and see where it takes the time from; if it is right, the clock of this hub is wrong."))
	case b.Said.Clock != 0 && !b.Said.ClockGood:
		return told("clock", false, say("Weiß die Zeit nicht sicher.", "Is not sure of the time."),
			say("Eine Quelle der Zeit geben: Zeitserver, GPS oder von Hand (Seite „Uhr“).", "Give it a source of time: time server, GPS or by hand (page Clock)."))
	}
	return Trouble{}, false
}

// span says how wrong a clock is.
func span(off time.Duration, de bool) string {
	n, unit := int(off.Abs()/time.Minute), [2]string{"Minuten", "minutes"}
	if off.Abs() >= 2*day {
		n, unit = int(off.Abs()/day), [2]string{"Tage", "days"}
	} else if off.Abs() >= 2*time.Hour {
		n, unit = int(off.Abs()/time.Hour), [2]string{"Stunden", "hours"}
	}
	if n == 1 {
		unit = [2]string{"Minute", "minute"}
	}
	way := [2]string{"vor", "fast"}
	if off < 0 {
		way = [2]string{"nach", "slow"}
	}
	if de {
		return fmt.Sprintf("%d %s %s", n, unit[0], way[0])
	}
	return fmt.Sprintf("%d %s %s", n, unit[1], way[1])
}

// ends says when something ends, in days.
func ends(until, now time.Time) (de, en string) {
	switch n := int(math.Floor(until.Sub(now).Hours() / 24)); {
	case !until.After(now):
		return "ist abgelaufen", "has ended"
	case n < 1:
		return "endet heute", "ends within a day"
	case n == 1:
		return "endet morgen", "ends in a day"
	default:
		return fmt.Sprintf("endet in %d Tagen", n), fmt.Sprintf("ends in %d days", n)
	}
}

func keyDocument(b Box, now time.Time) (Trouble, bool) {
	if b.KeyUntil.IsZero() || b.KeyUntil.Sub(now) > endsLook {
		return Trouble{}, false
	}
	de, en := ends(b.KeyUntil, now)
	what := say("Ihr Schlüsseldokument "+de+".", "Its key document "+en+".")
	if !b.KeyUntil.After(now) {
		return told("key_document", true, what, say("Die Box in Kontakt bringen, mit der richtigen Zeit: Bis dahin nehmen andere Server nicht an, was sie unterschreibt.",
			"Bring the box in contact, with the right time: until then other servers refuse what it signs."))
	}
	return told("key_document", b.KeyUntil.Sub(now) <= endsBad, what,
		say("Die Box vorher in Kontakt bringen, mit der richtigen Zeit: Danach nehmen andere Server nicht an, was sie unterschreibt.", "Bring the box in contact before, with the right time: afterwards other servers refuse what it signs."))
}

func certificate(b Box, now time.Time) (Trouble, bool) {
	switch {
	case b.NoCertificate:
		return told("certificate", true, say("Der Hub hat kein Zertifikat für ihren Namen.", "The hub has no certificate for its name."),
			say("In hub.json unter tls eines nennen, das den Namen enthält, oder acme einstellen: Kein anderer Server erreicht die Box sonst.", "Name one that holds the name under tls in hub.json, or set acme: no other server reaches the box without."))
	case b.CertificateUntil.IsZero() || b.CertificateUntil.Sub(now) > endsLook:
		return Trouble{}, false
	}
	de, en := ends(b.CertificateUntil, now)
	return told("certificate", b.CertificateUntil.Sub(now) <= endsBad, say("Das Zertifikat des Hubs für ihren Namen "+de+".", "The hub's certificate for its name "+en+"."),
		say("Erneuern und an dieselbe Stelle legen; der Hub liest es binnen einer Minute neu.", "Renew it and put it in the same place; the hub reads it again within a minute."))
}

func full(b Box, _ time.Time) (Trouble, bool) {
	if b.Full < fullLook {
		return Trouble{}, false
	}
	return told("full", b.Full >= fullBad, say(fmt.Sprintf("Der Platz für sie im Hub ist zu %.0f %% belegt.", 100*b.Full), fmt.Sprintf("Its room at the hub is %.0f %% full.", 100*b.Full)),
		say("Die Box in Kontakt bringen, damit sie holt, was wartet; Weiteres muss der Hub sonst zurückweisen.", "Bring the box in contact, so that it takes what waits; the hub has to turn away more otherwise."))
}

func version(b Box, _ time.Time) (Trouble, bool) {
	if b.Behind < versionsLook {
		return Trouble{}, false
	}
	return told("version", false, say(fmt.Sprintf("%d Versionen zurück (%s).", b.Behind, b.Version), fmt.Sprintf("%d versions behind (%s).", b.Behind, b.Version)),
		say("Ein Update für sie freigeben (Seite „Updates“), oder sie von einer anderen Box oder mit einem Stick aktualisieren.", "Roll an update out to it (page Updates), or update it from another box or with a stick."))
}

// policed tells of a policy that a box does not take.
func policed(b Box, _ time.Time) (Trouble, bool) {
	if b.Said.PolicyRefused == "" {
		return Trouble{}, false
	}
	return told("policy", false, say("Nimmt die Vorgaben der Organisation nicht an: "+b.Said.PolicyRefused+".", "Does not take the organisation's policy: "+b.Said.PolicyRefused+"."),
		say("Vergleichen, ob organisation.key in ihrer hallig.json der Schlüssel ist, mit dem unterschrieben wurde; serial muss höher sein als zuvor.", "Compare whether organisation.key in its hallig.json is the key that has signed; serial must be higher than before."))
}

func keys(b Box, _ time.Time) (Trouble, bool) {
	if b.Connected || b.Keys.Left > 0 || b.Keys.Given == 0 {
		return Trouble{}, false
	}
	return told("keys", false, say("Ihre Einmalschlüssel im Hub sind aufgebraucht.", "Its one-time keys at the hub are used up."),
		say("Die Box in Kontakt bringen, damit sie neue hinterlegt; bis dahin werden Ersatzschlüssel mehrfach benutzt.", "Bring the box in contact, so that it deposits new ones; until then fallback keys are used more than once."))
}

// own is what the box said of its own health.
func own(b Box, _ time.Time) (Trouble, bool) {
	if b.Said.State != health.Look && b.Said.State != health.Trouble {
		return Trouble{}, false
	}
	what := say(b.Said.SentenceDE, b.Said.Sentence)
	if what.DE == "" {
		what.DE = what.EN
	}
	return told("health", b.Said.State == health.Trouble, what, say("Das hat die Box bei ihrem letzten Kontakt von sich gesagt; ihre Seite „Zustand“ sagt mehr.", "So the box said of itself at its last contact; its page State says more."))
}
