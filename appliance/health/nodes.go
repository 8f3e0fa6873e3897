// SPDX-License-Identifier: EUPL-1.2

package health

import (
	"fmt"
	"strings"
	"time"
)

// The thresholds. Between good and bad there is room, so that a value that wavers does not make the lamp flicker.
const (
	hot          = 80.0 // °C, when the machine does not say what is too hot for it
	nearCritical = 10.0 // below that
	lowBattery   = 30   // percent
	scarceMemory = 0.08 // of all
	leastMemory  = 16 << 20
	fullDisk     = 0.05
	leastDisk    = 256 << 20
	manyRestarts = 3
	settle       = 90 * time.Second // after the start, until boxes have found each other
	awayPeer     = 2 * time.Minute
	awayServer   = 5 * time.Minute
	shortCert    = 14 * 24 * time.Hour
)

func node(k Kind, state State, de, en string) Node {
	return Node{ID: string(k), Kind: k, State: state, Sentence: Sentence{de, en}}
}

func one(n Node) []Node { return []Node{n} }

// nodesOf makes the nodes of one kind.
func nodesOf(k Kind, f Facts) []Node {
	single := map[Kind]func(Facts) (Node, bool){
		Power: power, Machine: machine, Temperature: temperature, Memory: memory, Disk: disk, Database: database, Homeserver: homeserver, Services: services,
		Provisioning: provisioning, Network: network, Clock: clock, Links: links, Hub: hub, Certificate: certificate, Update: update, Backup: backup, Courier: courier, Setup: setup,
	}
	if judge, ok := single[k]; ok {
		if n, there := judge(f); there {
			return one(n)
		}
		return nil
	}
	var out []Node
	switch k {
	case Line:
		for _, l := range f.Lines {
			out = append(out, line(l))
		}
	case Peer:
		for _, p := range f.Peers {
			out = append(out, peer(p, f))
		}
	case Server:
		for _, s := range f.Servers {
			out = append(out, server(s, f))
		}
	}
	return out
}

func power(f Facts) (Node, bool) {
	p := f.Power
	switch {
	case p == nil:
		return Node{}, false
	case p.UnderVoltage:
		return node(Power, Trouble, "Die Box bekommt zu wenig Strom: ein stärkeres Netzteil und ein kurzes Kabel anschließen.",
			"The box gets too little power: connect a stronger power supply and a short cable."), true
	case p.OnBattery && p.Battery >= 0 && p.Battery < lowBattery:
		return node(Power, Trouble, fmt.Sprintf("Der Akku ist bei %d %%: die Box an eine Stromquelle anschließen.", p.Battery),
			fmt.Sprintf("The battery is at %d %%: connect the box to power.", p.Battery)), true
	case p.OnBattery:
		return node(Power, OK, fmt.Sprintf("Strom aus dem Akku, noch %d %%.", p.Battery), fmt.Sprintf("On battery, %d %% left.", p.Battery)), true
	}
	return node(Power, OK, "Die Stromversorgung ist in Ordnung.", "Power is fine."), true
}

func machine(f Facts) (Node, bool) {
	if len(f.Trouble) == 0 {
		return Node{}, false
	}
	n := Node{ID: string(Machine), Kind: Machine, State: Trouble, Sentence: f.Trouble[0]}
	for _, s := range f.Trouble[1:] {
		n.Detail = strings.TrimPrefix(n.Detail+" "+s.EN, " ")
	}
	n.blames = []string{string(Power)}
	return n, true
}

func temperature(f Facts) (Node, bool) {
	t := f.Temperature
	if t == nil {
		return Node{}, false
	}
	limit := hot
	if t.Critical > 0 {
		limit = t.Critical - nearCritical
	}
	if t.Celsius < limit {
		return node(Temperature, OK, fmt.Sprintf("%.0f °C in der Box.", t.Celsius), fmt.Sprintf("%.0f °C inside the box.", t.Celsius)), true
	}
	n := node(Temperature, Look, fmt.Sprintf("Die Box ist heiß (%.0f °C): kühler stellen, Lüftungsschlitze frei machen.", t.Celsius),
		fmt.Sprintf("The box is hot (%.0f °C): put it in a cooler place and clear its vents.", t.Celsius))
	if t.Celsius >= limit+nearCritical {
		n.State = Trouble
	}
	return n, true
}

func memory(f Facts) (Node, bool) {
	m := f.Memory
	if m == nil || m.Total <= 0 {
		return Node{}, false
	}
	if m.Available >= leastMemory && float64(m.Available) >= scarceMemory*float64(m.Total) {
		return node(Memory, OK, fmt.Sprintf("%d MB Arbeitsspeicher frei.", m.Available>>20), fmt.Sprintf("%d MB of memory free.", m.Available>>20)), true
	}
	return node(Memory, Look, "Der Arbeitsspeicher ist fast voll: die Box neu starten; kommt es wieder, Telefone auf eine zweite Box verteilen.",
		"Memory is almost full: restart the box; if it comes back, move some phones to a second box."), true
}

func disk(f Facts) (Node, bool) {
	d := f.Disk
	switch {
	case d == nil:
		return Node{}, false
	case d.ReadOnly:
		return node(Disk, Trouble, "Der Datenträger nimmt nichts mehr an: die letzte Sicherung auf einer Ersatzbox einspielen.",
			"The disk takes nothing any more: restore the last backup on a spare box."), true
	case d.Free < d.Reserve:
		return node(Disk, Trouble, "Der Speicher ist voll, neue Nachrichten werden abgelehnt: mit einer Sicherung auf eine Box mit größerem Speicher umziehen.",
			"The disk is full and new messages are refused: move to a box with a larger disk by way of a backup."), true
	case d.Free < leastDisk+d.Reserve || float64(d.Free) < fullDisk*float64(d.Size):
		return node(Disk, Look, fmt.Sprintf("Nur noch %d MB Speicher frei: den Umzug auf einen größeren Speicher vorbereiten.", d.Free>>20),
			fmt.Sprintf("Only %d MB of disk left: prepare to move to a larger one.", d.Free>>20)), true
	}
	return node(Disk, OK, strings.Replace(fmt.Sprintf("%.1f GB Speicher frei.", float64(d.Free)/1e9), ".", ",", 1), fmt.Sprintf("%.1f GB of disk free.", float64(d.Free)/1e9)), true
}

func database(f Facts) (Node, bool) {
	p := f.Database
	switch {
	case p == nil:
		return Node{}, false
	case p.Err != "":
		n := node(Database, Trouble, "Die Datenbank antwortet nicht: die Box neu starten; hilft das nicht, die letzte Sicherung auf einer Ersatzbox einspielen.",
			"The database does not answer: restart the box; if that does not help, restore the last backup on a spare box.")
		n.Detail, n.blames = p.Err, []string{string(Power), string(Machine), string(Disk)}
		return n, true
	}
	return node(Database, OK, "Die Datenbank arbeitet.", "The database works."), true
}

func homeserver(f Facts) (Node, bool) {
	p := f.Homeserver
	switch {
	case p == nil:
		return Node{}, false
	case p.Err != "":
		n := node(Homeserver, Trouble, "Der Nachrichtendienst antwortet nicht: die Box neu starten.", "The message service does not answer: restart the box.")
		n.Detail, n.blames = p.Err, []string{string(Database), string(Disk), string(Memory)}
		return n, true
	}
	return node(Homeserver, OK, "Der Nachrichtendienst antwortet.", "The message service answers."), true
}

func services(f Facts) (Node, bool) {
	if len(f.Processes) == 0 {
		return Node{}, false
	}
	for _, p := range f.Processes {
		if p.Restarts >= manyRestarts {
			n := node(Services, Look, "Ein Programm der Box startet immer wieder neu: die Box neu starten; kommt es wieder, die Sicherung auf eine Ersatzbox spielen und das Protokoll einsenden.",
				"A program of the box starts again and again: restart the box; if it comes back, restore the backup on a spare box and send in the log.")
			n.Detail = fmt.Sprintf("%s: %d restarts in the last hour", p.Name, p.Restarts)
			n.blames = []string{string(Power), string(Memory), string(Disk), string(Database)}
			return n, true
		}
	}
	return node(Services, OK, "Alle Programme der Box laufen.", "All programs of the box are running."), true
}

func provisioning(f Facts) (Node, bool) {
	p := f.Provisioning
	switch {
	case p == nil:
		return Node{}, false
	case !p.Err.Empty():
		n := Node{ID: string(Provisioning), Kind: Provisioning, State: Look, Sentence: p.Err, Detail: p.File}
		if !p.InForce && f.Setup != nil && !f.Setup.Admin {
			n.Sentence.DE += " Noch kein Konto anlegen: mit dem ersten steht der Name der Box fest. Erst die Datei berichtigen."
			n.Sentence.EN += " Make no account yet: the first one fixes the box's name. Correct the file first."
		}
		if p.InForce {
			n.Sentence.DE += " Es bleibt bei der früheren."
			n.Sentence.EN += " The earlier one stays in force."
		}
		return n, true
	case !p.InForce:
		return node(Provisioning, OK, "Keine Vorbereitungsdatei (hallig.json) ist in Kraft.", "No provisioning file (hallig.json) is in force."), true
	case !p.From.Empty():
		return node(Provisioning, OK, "Eingerichtet nach der hallig.json "+p.From.DE+".", "Set up from the hallig.json "+p.From.EN+"."), true
	}
	return node(Provisioning, OK, "Nach der Vorbereitungsdatei (hallig.json) eingerichtet.", "Set up from the provisioning file (hallig.json)."), true
}

func network(f Facts) (Node, bool) {
	w := f.Network
	if w == nil {
		return Node{}, false
	}
	up, address := false, false
	for _, i := range w.Interfaces {
		up, address = up || i.Up, address || i.Up && i.Address
	}
	var n Node
	switch {
	case w.Mode == "off":
		return node(Network, OK, "Das Netz ist abgeschaltet, wie eingestellt.", "The network is off, as configured."), true
	case !w.Err.Empty():
		n = Node{ID: string(Network), Kind: Network, State: Look, Sentence: w.Err}
	case !up:
		n = node(Network, Trouble, "Kein Netz: das Netzwerkkabel einstecken.", "No network: plug in the network cable.")
	case !address:
		n = node(Network, Look, "Die Box hat im Netz noch keine Adresse: zwei Minuten warten, dann den Router prüfen.",
			"The box has no address on the network yet: wait two minutes, then check the router.")
	case w.Mode == "host":
		n = node(Network, OK, "Die Box führt dieses Netz selbst und gibt den Telefonen ihre Adressen.", "The box runs this network itself and gives phones their addresses.")
	case w.Uplink:
		n = node(Network, OK, "Die Box ist Gast in diesem Netz.", "The box is a guest on this network.")
	default:
		n = node(Network, OK, "Die Box ist im Netz, ohne Weg nach draußen.", "The box is on the network, with no way to the outside.")
	}
	if up { // a cable that is out is out, whatever a file says
		n.blames = []string{string(Provisioning)}
	}
	return n, true
}

func clock(f Facts) (Node, bool) {
	c := f.Clock
	switch {
	case c == nil:
		return Node{}, false
	case !c.Trusted:
		n := node(Clock, Look, "Die Box kennt die Uhrzeit nicht und geht nach: auf der Verwaltungsseite die Uhr stellen.",
			"The box does not know the time and lags behind: set the clock on the admin page.")
		n.Detail, n.blames = c.Detail, []string{string(Setup), string(Network)} // the admin page needs an administrator
		return n, true
	}
	return node(Clock, OK, "Die Uhr geht richtig.", "The clock is right."), true
}

func links(f Facts) (Node, bool) {
	p := f.Links
	switch {
	case p == nil:
		return Node{}, false
	case p.Err != "":
		n := node(Links, Trouble, "Die Verbindungen zu anderen Boxen arbeiten nicht: die Box neu starten.", "The links to other boxes do not work: restart the box.")
		n.Detail, n.blames = p.Err, []string{string(Database), string(Disk)}
		return n, true
	}
	return node(Links, OK, "Die Verbindungen zu anderen Boxen arbeiten.", "The links to other boxes work."), true
}

func peer(p PeerFacts, f Facts) Node {
	n := node(Peer, OK, "Die Box "+p.Server+" ist verbunden.", "The box "+p.Server+" is connected.")
	n.ID, n.Name = string(Peer)+":"+p.Server, p.Server
	switch {
	case p.Twin:
		n.State = Look
		n.Sentence = Sentence{"Zwei Boxen heißen " + p.Server + ": die alte, für die eine Ersatzbox übernommen hat, ausschalten und nie wieder einschalten.",
			"Two boxes are called " + p.Server + ": switch off the old one, for which a spare box has taken over, and never switch it on again."}
		return n
	case p.InReach && len(p.Withheld) > 0:
		n.State = Look
		rooms := strings.Join(p.Withheld[:min(len(p.Withheld), 5)], ", ")
		if len(p.Withheld) > 5 {
			rooms += ", ..."
		}
		n.Sentence = Sentence{"Die Box " + p.Server + " ist nur über Amateurfunk verbunden; Ende-zu-Ende-verschlüsselte Räume dürfen da nicht hinüber und warten auf einen anderen Weg. Für den Funk einen unverschlüsselten Raum nehmen.",
			"The box " + p.Server + " is connected over amateur radio only; end-to-end encrypted rooms must not go over it and wait for another way. Use an unencrypted room for the radio."}
		n.Detail = rooms // names of rooms are for those who administer
		return n
	case p.InReach && p.WithheldKeys:
		n.Sentence = Sentence{"Die Box " + p.Server + " ist über Amateurfunk verbunden; Schlüssel für verschlüsselte Räume warten auf einen anderen Weg.",
			"The box " + p.Server + " is connected over amateur radio; keys for encrypted rooms wait for another way."}
		return n
	case p.InReach:
		return n
	case p.Away < awayPeer || f.Up < settle:
		n.Waits, n.Sentence = true, Sentence{"Die Box " + p.Server + " wird gesucht.", "Looking for the box " + p.Server + "."}
		return n
	}
	n.State = Look
	n.Sentence = Sentence{"Die Box " + p.Server + " ist außer Reichweite: dort Strom, Kabel und Antenne prüfen." + waiting(p.Queued).DE,
		"The box " + p.Server + " is out of reach: check power, cable and antenna there." + waiting(p.Queued).EN}
	n.blames = append(waysOf(p, f), string(Links))
	return n
}

// waysOf names what explains that a box is out of reach: every way to it is down. While one of them is up, the trouble is at the other end.
func waysOf(p PeerFacts, f Facts) []string {
	var down []string
	net, _ := network(f)
	if p.Network && f.Network != nil {
		if net.State == OK {
			return nil
		}
		down = append(down, string(Network))
	}
	for _, l := range f.Lines {
		for _, name := range p.Lines {
			if l.Name != name {
				continue
			}
			if !l.down() {
				return nil
			}
			down = append(down, string(Line)+":"+name)
		}
	}
	return down
}

// daysOf is a time in whole days, at least one.
func daysOf(d time.Duration) Sentence {
	n := int(d / (24 * time.Hour))
	if n <= 1 {
		return Sentence{"einen Tag", "1 day"}
	}
	return Sentence{fmt.Sprintf("%d Tage", n), fmt.Sprintf("%d days", n)}
}

// waiting says what is kept for somebody out of reach.
func waiting(n int) Sentence {
	switch {
	case n <= 0:
		return Sentence{}
	case n == 1:
		return Sentence{" Eine Nachricht wartet und geht von selbst hinaus.", " One message waits and leaves by itself."}
	}
	return Sentence{fmt.Sprintf(" %d Nachrichten warten und gehen von selbst hinaus.", n), fmt.Sprintf(" %d messages wait and leave by themselves.", n)}
}

func hub(f Facts) (Node, bool) {
	h := f.Hub
	if h == nil {
		return Node{}, false
	}
	n := node(Hub, OK, "Der Hub ist erreichbar.", "The hub is in reach.")
	n.Detail = strings.TrimSuffix(h.Name+": "+h.Err, ": ")
	if h.Through != "" {
		n.Sentence = Sentence{"Der Hub ist nur über die Box " + h.Through + " zu erreichen; was er hat, kommt langsam.", "The hub is in reach through the box " + h.Through + " alone; what it has comes slowly."}
	}
	switch {
	case !h.Paired:
		n.State = Look
		n.Sentence = Sentence{"Der Hub ist eingetragen, aber nicht gekoppelt: dort „hallig-hub pair“ aufrufen und den Code hier eingeben.",
			"The hub is configured but not paired: call “hallig-hub pair” there and enter the code here."}
	case f.Up < settle:
	case h.Away >= awayServer:
		n.State = Look
		n.Sentence = Sentence{"Der Hub ist nicht erreichbar: den Weg ins Internet oder ins Netz der Organisation prüfen. Was andere Server schreiben, wartet dort.",
			"The hub is out of reach: check the way to the Internet or to the organisation's network. What other servers write waits there."}
		n.blames = []string{string(Network)}
	case h.Err != "":
		n.State = Look
		n.Sentence = Sentence{"Der Hub nimmt nicht an, was die Box von sich sagt: die Verwaltung des Hubs fragen.", "The hub does not take what the box says of itself: ask the hub's administrator."}
	case h.Mode != "":
		n.State, n.Detail = Look, h.Name+": "+h.Mode
		n.Sentence = Sentence{"Der Hub bedient die Box nicht so, wie sie es will (versiegelt oder mit Vollmacht): Auf der Seite „Boxen“ steht, was fehlt.",
			"The hub does not serve the box as it wants to be (sealed or delegate): the page “Boxes” says what is missing."}
	}
	return n, true
}

func server(s ServerFacts, f Facts) Node {
	n := node(Server, OK, "Der Server "+s.Name+" ist erreichbar.", "The server "+s.Name+" is in reach.")
	n.ID, n.Name, n.Detail = string(Server)+":"+s.Name, s.Name, s.Err
	if s.Away < awayServer || f.Up < settle {
		if s.Away > 0 {
			n.Waits, n.Sentence = true, Sentence{"Der Server " + s.Name + " antwortet gerade nicht; es wird weiter versucht.", "The server " + s.Name + " does not answer at the moment; it is tried again."}
		}
		return n
	}
	n.State = Look
	n.Sentence = Sentence{"Der Server " + s.Name + " ist nicht erreichbar: den Weg ins Internet oder ins Netz der Organisation prüfen." + waiting(s.Queued).DE,
		"The server " + s.Name + " is out of reach: check the way to the Internet or to the organisation's network." + waiting(s.Queued).EN}
	n.blames = []string{string(Network), string(Clock), string(Hub)}
	return n
}

func certificate(f Facts) (Node, bool) {
	c := f.Certificate
	if c == nil {
		return Node{}, false
	}
	n := node(Certificate, OK, "Das Zertifikat gilt.", "The certificate is valid.")
	n.Detail = c.Err
	days := daysOf(c.Left)
	switch {
	case f.Clock != nil && !f.Clock.Trusted:
		// Without the time nobody knows whether it has ended.
		return n, true
	case c.Left <= 0:
		n.State = Look
		n.Sentence = Sentence{"Das Zertifikat ist abgelaufen, Browser warnen: die Box ans Internet bringen oder ein neues Zertifikat einspielen.",
			"The certificate has expired and browsers warn: bring the box to the Internet or install a new certificate."}
	case c.Left < shortCert && c.Err != "":
		n.State = Look
		n.Sentence = Sentence{"Das Zertifikat gilt noch " + days.DE + " und lässt sich nicht erneuern: die Box ans Internet bringen.",
			"The certificate ends in " + days.EN + " and cannot be renewed: bring the box to the Internet."}
	}
	n.blames = []string{string(Clock), string(Network)}
	return n, true
}

func update(f Facts) (Node, bool) {
	u := f.Update
	if u == nil {
		return Node{}, false
	}
	switch u.State {
	case UpdateTaking:
		return node(Update, Look, "Ein Update wird geschrieben: die Box eingeschaltet lassen.", "An update is being written: leave the box switched on."), true
	case UpdateReady:
		return node(Update, Look, "Das Update "+u.Version+" ist bereit: auf der Verwaltungsseite starten.", "Update "+u.Version+" is ready: start it on the admin page."), true
	case UpdateTrial:
		return node(Update, Look, "Das Update "+u.Version+" läuft auf Probe: die Box eingeschaltet lassen.", "Update "+u.Version+" is on trial: leave the box switched on."), true
	case UpdateFailed:
		n := node(Update, Look, "Das letzte Update wurde nicht übernommen, die vorige Version läuft weiter: die Datei neu besorgen.",
			"The last update was not taken and the version before goes on: get the file again.")
		if !u.Err.Empty() {
			n.Sentence = u.Err
		}
		n.blames = []string{string(Power), string(Disk)}
		return n, true
	}
	return node(Update, OK, "Kein Update steht an.", "No update is waiting."), true
}

func backup(f Facts) (Node, bool) {
	b := f.Backup
	if b == nil {
		return Node{}, false
	}
	var n Node
	switch {
	case b.Restored && !b.Wanted:
		n = node(Backup, Look, "Aus einer Sicherung wiederhergestellt. Schlüssel vom Stick löschen, Sicherung wieder einrichten, die alte Box nie wieder einschalten.",
			"Restored from a backup. Erase the key from the stick, set up backups again, and never switch on the old box again.")
	case !b.Wanted:
		n = node(Backup, OK, "Es ist keine Sicherung eingerichtet.", "No backup is set up.")
	case !b.Err.Empty():
		n = Node{ID: string(Backup), Kind: Backup, State: Look, Sentence: b.Err}
	case b.Restored:
		n = node(Backup, Look, "Aus einer Sicherung wiederhergestellt. Schlüssel vom Stick löschen, die alte Box nie wieder einschalten.",
			"Restored from a backup. Erase the key from the stick, and never switch on the old box again.")
	case b.Starting && b.ToStick:
		n = node(Backup, Look, "Die Sicherung beginnt gleich: den Stick stecken lassen.", "The backup begins in a moment: leave the stick plugged in.")
	case b.Starting:
		n = node(Backup, OK, "Die Sicherung beginnt gleich.", "The backup begins in a moment.")
	case b.Age == 0:
		n = node(Backup, Look, "Es gibt noch keine Sicherung: den Sicherungsstick einstecken.", "There is no backup yet: plug in the backup stick.")
	case b.Every > 0 && b.Age > 2*b.Every:
		days := daysOf(b.Age)
		n = node(Backup, Look, "Die letzte Sicherung ist "+days.DE+" alt: den Sicherungsstick einstecken.", "The last backup is "+days.EN+" old: plug in the backup stick.")
	default:
		n = node(Backup, OK, "Die Sicherung ist aktuell.", "The backup is up to date.")
	}
	n.Detail, n.blames = b.Detail, []string{string(Disk), string(Database)}
	return n, true
}

func setup(f Facts) (Node, bool) {
	switch {
	case f.Setup == nil:
		return Node{}, false
	case !f.Setup.Admin:
		n := node(Setup, Look, "Noch niemand verwaltet die Box: mit dem Code vom Bildschirm der Box das erste Konto anlegen.",
			"Nobody looks after the box yet: make the first account with the code on the box's screen.")
		n.blames = []string{string(Provisioning), string(Homeserver), string(Network)}
		return n, true
	}
	return node(Setup, OK, "Die Box wird verwaltet.", "The box has an administrator."), true
}

func courier(f Facts) (Node, bool) {
	c := f.Courier
	if c == nil {
		return Node{}, false
	}
	var n Node
	switch {
	case c.Working:
		n = node(Courier, Look, "Der Stick "+c.Stick+" wird gelesen und beschrieben: stecken lassen.", "Stick "+c.Stick+" is being read and written: leave it plugged in.")
	case !c.Err.Empty():
		n = Node{ID: string(Courier), Kind: Courier, State: Look, Sentence: c.Err}
	case c.Pull:
		n = node(Courier, Look, c.Done.DE+" Der Stick "+c.Stick+" kann abgezogen werden.", c.Done.EN+" Stick "+c.Stick+" can be pulled out.")
	default:
		n = Node{ID: string(Courier), Kind: Courier, State: OK, Sentence: c.Done}
	}
	n.Detail = c.Detail
	return n, true
}
