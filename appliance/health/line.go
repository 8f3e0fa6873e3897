// SPDX-License-Identifier: EUPL-1.2

package health

import (
	"fmt"
	"strings"
	"time"
)

const (
	fewFrames = 20 // tell nothing
	badLine   = 30 // percent of repetitions

	quietLine = 2 * time.Minute // without an answer: somebody should look
	longWait  = time.Minute     // for air time: worth a word
)

// introduction is how long two boxes may take to find out who they are, with their frames lost now and then.
func (l LineFacts) introduction() time.Duration {
	return 30*time.Second + 40_000*time.Second/time.Duration(max(l.BitsPerSecond, 50))
}

// noun is what people call the line.
func (l LineFacts) noun() Sentence {
	switch l.Modem {
	case "null", "rs485", "at":
		return Sentence{"Leitung " + l.Device, "line " + l.Device}
	}
	return Sentence{"Funkstrecke " + l.Device, "radio line " + l.Device}
}

// checks are what to look after when the far end does not answer, by modem.
func checks(modem string) Sentence {
	switch modem {
	case "null":
		return Sentence{"Läuft die andere Box, steckt das Kabel an beiden Enden, ist es gekreuzt (Nullmodem), und haben beide Boxen dieselbe Rate (baud)?",
			"is the other box running, is the cable plugged in at both ends, is it crossed (null modem), and have both boxes the same rate (baud)?"}
	case "rs485":
		return Sentence{"Läuft die andere Box, sind A und B vertauscht, fehlt ein Abschlusswiderstand, und haben beide Boxen dieselbe Rate (baud)?",
			"is the other box running, are A and B swapped, is a terminating resistor missing, and have both boxes the same rate (baud)?"}
	case "kiss":
		return Sentence{"Läuft die andere Box, ist ihr TNC an und im KISS-Betrieb, stimmen Frequenz, Rate und Pegel auf beiden Seiten?",
			"is the other box running, is its TNC on and in KISS mode, are frequency, rate and audio levels right at both ends?"}
	case "rnode", "meshcore":
		return Sentence{"Läuft die andere Box, ist an beiden die Antenne angeschraubt, und haben beide Boxen dieselbe Frequenz, Bandbreite und denselben Spreizfaktor?",
			"is the other box running, is the antenna screwed on at both, and have both boxes the same frequency, bandwidth and spreading factor?"}
	case "at":
		return Sentence{"Läuft die andere Box an derselben Leitung?", "is the other box running on the same call?"}
	}
	return Sentence{"Läuft die andere Box, hat ihr Funkgerät Strom, sind beide auf derselben Frequenz, und haben beide dieselbe Rate (baud, bits_per_second)?",
		"is the other box running, has its radio power, are both on the same frequency, and have both the same rate (baud, bits_per_second)?"}
}

// heard tells how well the far end is heard.
func (l LineFacts) heard() Sentence {
	var de, en []string
	if l.Signal {
		de = append(de, fmt.Sprintf("Pegel %d dBm, Rauschabstand %.0f dB", l.RSSI, l.SNR))
		en = append(en, fmt.Sprintf("signal %d dBm, %.0f dB against the noise", l.RSSI, l.SNR))
	}
	if l.Sent >= fewFrames {
		n := l.Again * 100 / l.Sent
		de, en = append(de, fmt.Sprintf("%d %% wiederholt", n)), append(en, fmt.Sprintf("%d %% repeated", n))
	}
	if len(de) == 0 {
		return Sentence{}
	}
	return Sentence{" (" + strings.Join(de, ", ") + ")", " (" + strings.Join(en, ", ") + ")"}
}

func line(l LineFacts) Node {
	n := node(Line, OK, "", "")
	n.ID, n.Name = string(Line)+":"+l.Name, l.Name
	heard, it := l.heard(), l.noun()
	switch {
	case l.stuck():
		n.State = Look
		n.Sentence = Sentence{"Der Anschluss " + l.Device + " nimmt nichts an: \"rts_cts\" weglassen, wenn Kabel oder Gerät diese Adern nicht haben; sonst das Gerät aus- und wieder einstecken.",
			"The port " + l.Device + " takes nothing: leave out \"rts_cts\" if cable or device do not have these wires; otherwise pull the device out and put it back."}
	case !l.Open:
		return closedLine(n, l)
	case l.AirWait >= longWait:
		if n.Waits = l.Up; !l.Up { // then it explains that boxes are out of reach
			n.State = Look
		}
		minutes := int((l.AirWait + time.Minute - 1) / time.Minute)
		n.Sentence = Sentence{fmt.Sprintf("Die Sendezeit der %s ist für diese Stunde verbraucht; weiter geht es von selbst, in etwa %d min.", it.DE, minutes),
			fmt.Sprintf("The air time of the %s is used up for this hour; it goes on by itself in about %d min.", it.EN, minutes)}
	case l.unanswered():
		n.State, n.Sentence = Look, silence(l)
	case !l.Up:
		n.Waits = true
		n.Sentence = Sentence{"Die " + it.DE + " ist bereit und sucht die andere Box. Antwortet sie nicht: " + checks(l.Modem).DE, "The " + it.EN + " is ready and looks for the other box. If it does not answer: " + checks(l.Modem).EN}
	case l.Sent >= fewFrames && l.Again*100/l.Sent >= badLine:
		n.State = Look
		what := Sentence{"Antennen, Aufstellort und Störer in der Nähe prüfen", "check the antennas, the place and what disturbs nearby"}
		if l.Modem == "null" || l.Modem == "rs485" {
			what = Sentence{"Stecker und Kabel prüfen oder auf beiden Boxen eine kleinere Rate nehmen", "check plugs and cable, or take a lower rate on both boxes"}
		}
		n.Sentence = Sentence{"Auf der " + it.DE + " geht viel verloren" + heard.DE + ": " + what.DE + ". Nachrichten kommen an, nur langsamer.",
			"Much is lost on the " + it.EN + heard.EN + ": " + what.EN + ". Messages arrive, only more slowly."}
	case l.strange():
		n.State = Look
		n.Sentence = Sentence{"Am anderen Ende der " + it.DE + " ist eine Box, die mit dieser nicht gekoppelt ist: beide in ein Netz bringen, dann Verwaltung → Boxen → „Code zeigen“.",
			"At the other end of the " + it.EN + " is a box that is not paired with this one: bring both into one network, then administration → Boxes → “Show a code”."}
	case len(l.Boxes) == 0:
		n.Waits = true
		n.Sentence = Sentence{"An der " + it.DE + " antwortet eine Box" + heard.DE + "; die beiden machen sich bekannt.", "A box answers on the " + it.EN + heard.EN + "; the two are introducing themselves."}
	default:
		n.Sentence = Sentence{"Die " + it.DE + " steht" + heard.DE + ".", "The " + it.EN + " stands" + heard.EN + "."}
	}
	if n.State == OK && l.NoBand {
		n.State, n.Waits = Look, false
		n.Sentence = Sentence{"Die " + it.DE + " hat kein \"band\", die Box kennt keine Grenze der Sendezeit: bei 868 MHz \"eu868-10\" eintragen, auf eigener Frequenz \"licensed\", ohne Funk \"wire\".",
			"The " + it.EN + " has no \"band\", the box knows no limit of air time: enter \"eu868-10\" at 868 MHz, \"licensed\" on a frequency of your own, \"wire\" without radio."}
	}
	return n
}

// stuck says that nothing goes out, whether the port is open at this moment or being opened again.
func (l LineFacts) stuck() bool { return l.Stuck && !l.Up && l.Trouble.Empty() }

// unanswered says that nobody has answered for so long, or in such a way, that somebody should look.
func (l LineFacts) unanswered() bool { return l.Open && !l.Up && (l.Since >= quietLine || l.Unlike) }

// strange says that whoever answers is no box that this one is paired with.
func (l LineFacts) strange() bool {
	return l.Open && l.Up && len(l.Boxes) == 0 && l.Since >= l.introduction()
}

// down says that nothing can go over the line, for a reason that can be told.
func (l LineFacts) down() bool {
	return !l.Open || l.stuck() || l.unanswered() || l.strange() || !l.Up && l.AirWait >= longWait
}

// silence says what may be wrong when nobody answers.
func silence(l LineFacts) Sentence {
	it, check := l.noun(), checks(l.Modem)
	switch {
	case l.Unlike:
		return Sentence{"Die andere Box an der " + it.DE + " ist für ein anderes Band eingerichtet: entweder haben beide \"band\": \"amateur\" oder keine.",
			"The other box on the " + it.EN + " is set for another band: either both have \"band\": \"amateur\" or neither has."}
	case l.Garbled && (l.Modem == "null" || l.Modem == "transparent"):
		return Sentence{"An der " + it.DE + " kommt etwas an, aber nichts Verständliches: Haben beide Boxen dieselbe Rate (baud), und sendet dort eine Box?",
			"Something comes in on the " + it.EN + ", but nothing that makes sense: have both boxes the same rate (baud), and is it a box that sends there?"}
	case l.Met:
		return Sentence{"An der " + it.DE + " antwortet niemand mehr. Zu prüfen: " + check.DE, "Nobody answers on the " + it.EN + " any more. To check: " + check.EN}
	}
	return Sentence{"An der " + it.DE + " antwortet noch niemand. Zu prüfen: " + check.DE, "Nobody answers on the " + it.EN + " yet. To check: " + check.EN}
}

// closedLine is one whose port or modem is not to be had.
func closedLine(n Node, l LineFacts) Node {
	n.blames = []string{string(Power), string(Provisioning), string(Links)}
	n.State, n.Detail = Look, l.Err
	switch {
	case !l.Trouble.Empty():
		n.Sentence = l.Trouble
	case l.Opening && l.Modem == "at":
		n.State, n.Waits = OK, true
		n.Sentence = Sentence{"Das Modem an " + l.Device + " ruft die andere Box oder wartet auf ihren Anruf. Kommt keiner: Läuft sie, und steht dort die richtige Nummer?",
			"The modem at " + l.Device + " calls the other box or waits for its call. If none comes: is it running, and has it the right number?"}
	default:
		n.Sentence = Sentence{"Das Funkgerät an " + l.Device + " fehlt: Stecker und Strom des Geräts prüfen.", "The radio at " + l.Device + " is missing: check its plug and its power."}
		if l.Modem == "null" || l.Modem == "rs485" {
			n.Sentence = Sentence{"Der Adapter an " + l.Device + " fehlt: Stecker prüfen.", "The adapter at " + l.Device + " is missing: check its plug."}
		}
	}
	return n
}
