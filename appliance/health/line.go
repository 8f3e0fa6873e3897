// SPDX-License-Identifier: EUPL-1.2

package health

import (
	"fmt"
	"strings"
)

const (
	fewFrames = 20 // tell nothing
	badLine   = 30 // percent of repetitions
)

// hints are what to check when a line is ready and the far end does not answer, by modem.
func hint(modem string) Sentence {
	switch modem {
	case "null":
		return Sentence{" Antwortet sie nicht: Ist das Kabel gekreuzt (Nullmodem), und haben beide Boxen dieselbe Rate?",
			" If it does not answer: is the cable crossed (null modem), and have both boxes the same rate?"}
	case "rs485":
		return Sentence{" Antwortet sie nicht: Sind A und B vertauscht, fehlt ein Abschlusswiderstand, und haben beide Boxen dieselbe Rate?",
			" If it does not answer: are A and B swapped, is a terminating resistor missing, and have both boxes the same rate?"}
	case "kiss":
		return Sentence{" Antwortet sie nicht: Ist das TNC im KISS-Betrieb, stimmen Frequenz, Rate und Pegel auf beiden Seiten?",
			" If it does not answer: is the TNC in KISS mode, are frequency, rate and audio levels right at both ends?"}
	case "rnode", "meshcore":
		return Sentence{" Antwortet sie nicht: Ist die Antenne angeschraubt, und haben beide Boxen dieselbe Frequenz, Bandbreite und denselben Spreizfaktor?",
			" If it does not answer: is the antenna screwed on, and have both boxes the same frequency, bandwidth and spreading factor?"}
	case "at":
		return Sentence{" Antwortet sie nicht: Läuft die andere Box an derselben Leitung?", " If it does not answer: is the other box running on the same call?"}
	}
	return Sentence{" Antwortet sie nicht: Haben beide Funkgeräte dieselbe Frequenz, und beide Boxen dieselbe Rate?",
		" If it does not answer: are both radios on the same frequency, and have both boxes the same rate?"}
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
	heard := l.heard()
	switch {
	case !l.Open:
		return closedLine(n, l)
	case !l.Up:
		n.Sentence = Sentence{"Die Funkstrecke " + l.Device + " ist bereit und sucht die andere Box." + hint(l.Modem).DE, "The radio line " + l.Device + " is ready and looks for the other box." + hint(l.Modem).EN}
	case l.Sent >= fewFrames && l.Again*100/l.Sent >= badLine:
		n.State = Look
		n.Sentence = Sentence{"Auf der Funkstrecke " + l.Device + " geht viel verloren" + heard.DE + ": Antennen, Aufstellort und Störer in der Nähe prüfen. Nachrichten kommen an, nur langsamer.",
			"Much is lost on the radio line " + l.Device + heard.EN + ": check the antennas, the place and what disturbs nearby. Messages arrive, only more slowly."}
	default:
		n.Sentence = Sentence{"Die Funkstrecke " + l.Device + " steht" + heard.DE + ".", "The radio line " + l.Device + " stands" + heard.EN + "."}
	}
	return n
}

// closedLine is one whose port or modem is not to be had.
func closedLine(n Node, l LineFacts) Node {
	n.blames = []string{string(Power), string(Provisioning), string(Links)}
	n.State, n.Detail = Look, l.Err
	switch {
	case !l.Trouble.Empty():
		n.Sentence = l.Trouble
	case l.Opening && l.Modem == "at":
		n.State = OK
		n.Sentence = Sentence{"Das Modem an " + l.Device + " ruft die andere Box oder wartet auf ihren Anruf. Kommt keiner: Läuft sie, und steht dort die richtige Nummer?",
			"The modem at " + l.Device + " calls the other box or waits for its call. If none comes: is it running, and has it the right number?"}
	default:
		n.Sentence = Sentence{"Das Funkgerät an " + l.Device + " fehlt: Stecker und Strom des Geräts prüfen.", "The radio at " + l.Device + " is missing: check its plug and its power."}
	}
	return n
}
