// SPDX-License-Identifier: EUPL-1.2

package web

// texts are the words of one language on both pages.
type texts struct {
	German               bool
	Lang, Other, OtherIn string

	// The start page.
	Title, Lead                                  string
	Address, AddressOthers, How, ScanMe          string
	Apps, Phone, PhoneText, Desktop, DesktopText string
	Account, AccountText, Name                   string
	Stay, StayText, Stayed, Window               string
	Connection, Plain, Lapses                    string
	SafeOwn, SafeOutside, SafeOrganisation       string
	TrustLink, StatusLink                        string

	// The form for an account.
	SignUpTitle, SignUpLead, SignUpName, SignUpPassword, SignUpAgain, SignUpToken, SignUpDo, SignUpDone, SignUpNext string
	InviteTitle, InviteText                                                                                         string
	SaferHere                                                                                                       string
	ProblemNoPassword, ProblemDiffer, ProblemTaken, ProblemName, ProblemToken, ProblemMissing                       string
	ProblemShort, ProblemLong, ProblemOften, ProblemBox                                                             string

	// The page about trusting the box.
	TrustTitle, Back, NoTLS                                      string
	NowPlain, NowOwn, NowOutside, NowOrganisation, NowLapsed     string
	HTTPTitle                                                    string
	HTTPWorks, HTTPLacks, HTTPRisk                               string
	CheckTitle, Check, SHA1                                      string
	HowTitle, Expect, Done, Open                                 string
	MeansTitle, MeansName, MeansLimit, MeansThief, MeansEnd, PEM string
}

var german = texts{
	German: true, Lang: "de", Other: "English", OtherIn: "en",
	Title:   "Diese Box ist ein Nachrichtenserver",
	Lead:    "Hallig verbindet alle in diesem Netz, auch ohne Internet. Zum Schreiben und Lesen dient eine App für das Matrix-Protokoll.",
	Address: "Adresse des Servers", AddressOthers: "Wenn der Name nicht geht:",
	How:    "Beim Anmelden in der App „anderen Server“ oder „Heimserver bearbeiten“ wählen und diese Adresse eintragen.",
	ScanMe: "Für das nächste Telefon: mit der Kamera lesen, sobald es im selben WLAN ist.",
	Apps:   "App", Phone: "Telefon", PhoneText: "FluffyChat oder Element Classic; die App muss installiert sein, bevor das Internet fehlt.",
	Desktop: "Rechner", DesktopText: "Nheko, Element Desktop, Fractal, NeoChat oder Thunderbird.",
	Account: "Konto", AccountText: "Ein neues Konto braucht einen Anmeldecode. Er kommt von der Person, die diese Box betreut. Das Konto legen Sie hier oder in der App an.",
	Name:   "Name des Servers, hinter dem Doppelpunkt jedes Benutzernamens",
	Stay:   "In diesem Netz bleiben",
	Window: "Hat sich dieses Fenster von selbst geöffnet? Dann prüft Ihr Telefon, ob es hier Internet gibt. Manche Telefone verlassen ein Netz ohne Internet wieder oder nehmen das Mobilfunknetz.",
	StayText: "Mit dem Knopf meldet die Box diesem Telefon einen Tag lang, alles sei in Ordnung. Andere Apps haben hier trotzdem kein Internet. " +
		"Fragt das Telefon nach, ob es ohne Internet verbunden bleiben soll: „Ja“ und „nicht mehr fragen“.",
	Stayed:     "Gut. Sie können dieses Fenster schließen („Fertig“) und in der App oder im Browser weitermachen.",
	Connection: "Verbindung",
	Plain:      "Diese Seite kam unverschlüsselt zu Ihnen: Wer in diesem Netz ist, kann mitlesen, auch Passwörter, und kann sie verändern.",
	SafeOwn:    "Verschlüsselt, mit dem eigenen Zertifikat dieser Box.", SafeOutside: "Verschlüsselt, mit einem Zertifikat, das Ihr Gerät von sich aus kennt.",
	SafeOrganisation: "Die Adresse mit dem Namen der Box hat ein Zertifikat, das die Geräte der Organisation kennen. Ausgestellt von",
	Lapses:           "Das Zertifikat von außen ist abgelaufen, seit dem",
	TrustLink:        "Der Box vertrauen: so geht es auf Ihrem Gerät", StatusLink: "Zustand der Box",

	SignUpTitle: "Ein Konto anlegen", SignUpLead: "Danach melden Sie sich in der App mit diesem Namen und Passwort an.",
	SignUpName: "Benutzername (a-z, 0-9, Punkt, Bindestrich)", SignUpPassword: "Passwort (mindestens acht Zeichen)", SignUpAgain: "Passwort noch einmal", SignUpToken: "Anmeldecode",
	SignUpDo: "Konto anlegen", SignUpDone: "Das Konto ist angelegt:", SignUpNext: "Jetzt in der App „anmelden“ wählen, diese Serveradresse eintragen, dann Namen und Passwort:",
	InviteTitle: "Die nächste Person", InviteText: "Diesen Code mit der Kamera aufnehmen: Er führt zu einem eigenen Konto. Er gilt für ein Konto. Weitere Codes macht die Verwaltung, „Konten“.",
	SaferHere:         "Auf dieser Seite geht das Passwort unverschlüsselt durchs Netz. Besser, wenn Ihr Gerät der Box schon vertraut:",
	ProblemNoPassword: "Das Passwort fehlt.", ProblemDiffer: "Die beiden Passwörter sind verschieden.", ProblemTaken: "Diesen Namen hat schon jemand; einen anderen wählen.",
	ProblemName:  "Der Name darf nur Kleinbuchstaben a-z, Ziffern und . _ - enthalten.",
	ProblemToken: "Der Anmeldecode gilt nicht oder ist verbraucht; bei der Person nachfragen, die diese Box betreut.", ProblemMissing: "Name, Passwort und Anmeldecode werden gebraucht.",
	ProblemShort: "Das Passwort ist zu kurz: mindestens acht Zeichen, zum Beispiel drei Wörter.",
	ProblemLong:  "Das Passwort ist zu lang.", ProblemOften: "Zu viele Versuche; eine Minute warten.", ProblemBox: "Die Box konnte das Konto nicht anlegen; ihr Zustand sagt, woran es liegt.",

	TrustTitle: "Dieser Box vertrauen", Back: "Zur Startseite",
	NoTLS:           "Diese Box bietet keine verschlüsselten Verbindungen an. Fragen Sie die Person, die sie betreut.",
	NowPlain:        "Jetzt gerade: unverschlüsselt. Diese Seite kann auf dem Weg zu Ihnen verändert worden sein.",
	NowOwn:          "Jetzt gerade: verschlüsselt, mit dem eigenen Zertifikat der Box. Kam dabei keine Warnung, vertraut dieses Gerät der Box schon, und Sie sind fertig.",
	NowOutside:      "Diese Box hat ein Zertifikat, das Geräte von sich aus kennen. Sie müssen nichts tun. Adresse:",
	NowOrganisation: "Diese Box hat unter ihrem Namen ein Zertifikat, das die Geräte der Organisation kennen; auf ihnen ist nichts zu tun. Andere Geräte nehmen die Adresse unten und vertrauen der Box, wie hier gezeigt. Ausgestellt von",
	NowLapsed: "Das Zertifikat von außen ist abgelaufen; die Box zeigt ihr eigenes, bis sie ein neues bekommt. Dafür braucht sie einmal Internet oder die Organisation. " +
		"Solange warnt der Browser Geräte, die der Box nicht vertrauen. Die Warnung nennt dann nicht den Grund „abgelaufen“, sondern „Aussteller unbekannt“. Mit den Schritten unten verschwindet sie.",
	HTTPTitle: "Was ohne geht, und was nicht",
	HTTPWorks: "Ohne Vertrauen gehen über http:// in Apps wie FluffyChat Text, Bilder, Dateien und Verschlüsselung von Ende zu Ende.",
	HTTPLacks: "Nicht gehen im Browser ohne https://: Mikrofon und Kamera, Standort, Benachrichtigungen, und eine Seite, die ohne Netz startet. Manche Apps, vor allem auf dem iPhone, nehmen nur https://.",
	HTTPRisk: "Wer über http:// kommt, sollte wissen: Ein Angreifer im selben WLAN kann Passwörter und Anmeldungen mitlesen, Seiten verändern und sich für die Box ausgeben. " +
		"Von Ende zu Ende verschlüsselte Nachrichten kann er nicht lesen, solange die App von anderswo kam. Ein WLAN mit Passwort, das nicht alle kennen, hilft; ein offenes nicht.",
	CheckTitle: "Erst vergleichen",
	Check: "Ein Angreifer könnte Ihnen hier sein Zertifikat unterschieben, und das gälte für alle Seiten der Welt. Vergleichen Sie deshalb vor dem Einschalten den Fingerabdruck, den Ihr Gerät zeigt, " +
		"mit dem auf dem Bildschirm der Box, oder lassen Sie ihn sich von der Person vorlesen, die sie betreut. Der auf dieser Seite kam auf demselben Weg wie das Zertifikat und beweist nichts.",
	SHA1:     "Windows zeigt statt dessen diesen (SHA-1):",
	HowTitle: "So geht es",
	Expect:   "Die Namen in den Bildern können auf Ihrem Gerät etwas anders lauten. Diese Seite muss im Browser offen sein (Safari, Chrome), nicht im Fenster, das sich beim WLAN von selbst öffnet.",
	Done:     "Fertig? Dann öffnet sich diese Adresse ohne Warnung:", Open: "Öffnen",
	MeansTitle: "Was das bedeutet",
	MeansName:  "So heißt die Box in der Liste Ihres Geräts:",
	MeansLimit: "Das Zertifikat gilt nur für die Namen dieser Box und für Adressen in lokalen Netzen. Andere Seiten kann niemand damit fälschen. Namen:",
	MeansThief: "Der Schlüssel dazu liegt nur in dieser Box und in ihren verschlüsselten Sicherungen. Wird sie gestohlen, kann der Dieb sich für sie ausgeben und für andere Geräte in einem lokalen Netz, mehr nicht. Dann sollte das Zertifikat von den Geräten gelöscht werden, dort, wo es eingeschaltet wurde.",
	MeansEnd:   "Es gilt bis zum", PEM: "Das Zertifikat als Text (PEM)",
}

var english = texts{
	Lang: "en", Other: "Deutsch", OtherIn: "de",
	Title:   "This box is a message server",
	Lead:    "Hallig connects everybody on this network, with or without the Internet. An app for the Matrix protocol is used to write and read.",
	Address: "Server address", AddressOthers: "If the name does not work:",
	How:    "When signing in with the app, choose “other server” or “edit homeserver” and enter this address.",
	ScanMe: "For the next phone: read this with its camera once it is on the same Wi-Fi.",
	Apps:   "App", Phone: "Phone", PhoneText: "FluffyChat or Element Classic; the app must be installed before the Internet is gone.",
	Desktop: "Computer", DesktopText: "Nheko, Element Desktop, Fractal, NeoChat or Thunderbird.",
	Account: "Account", AccountText: "A new account needs a registration token. It comes from the person who looks after this box. Create the account here or in the app.",
	Name:   "Server name, behind the colon of each user name",
	Stay:   "Stay on this network",
	Window: "Did this window open by itself? Then your phone is looking for the Internet here. Some phones leave a network without it, or use mobile data instead.",
	StayText: "With this button the box tells this phone for one day that all is well. Other apps still have no Internet here. " +
		"If the phone asks whether to stay connected without Internet: “Yes”, and “don't ask again”.",
	Stayed:     "Good. You can close this window (“Done”) and go on in the app or in the browser.",
	Connection: "Connection",
	Plain:      "This page came to you unencrypted: whoever is on this network can read along, passwords too, and can alter it.",
	SafeOwn:    "Encrypted, with this box's own certificate.", SafeOutside: "Encrypted, with a certificate that your device knows by itself.",
	SafeOrganisation: "The address with the name of the box has a certificate that the organisation's devices know. Issued by",
	Lapses:           "The certificate from outside is over, since",
	TrustLink:        "Trust the box: how to do it on your device", StatusLink: "How the box is doing",

	SignUpTitle: "Create an account", SignUpLead: "Then sign in with this name and password in the app.",
	SignUpName: "User name (a-z, 0-9, dot, hyphen)", SignUpPassword: "Password (at least eight characters)", SignUpAgain: "Password once more", SignUpToken: "Registration token",
	SignUpDo: "Create account", SignUpDone: "The account is there:", SignUpNext: "Now choose “sign in” in the app, enter this server address, then name and password:",
	InviteTitle: "The next person", InviteText: "Scan this code with the camera: it leads to an account of your own. It is good for one account. More codes come from the administration page, “Accounts”.",
	SaferHere:         "On this page the password crosses the network unencrypted. Better, if your device trusts the box already:",
	ProblemNoPassword: "The password is missing.", ProblemDiffer: "The two passwords differ.", ProblemTaken: "Somebody has this name already; choose another one.",
	ProblemName:  "The name may have small letters a-z, digits and . _ - only.",
	ProblemToken: "The registration token is not valid or used up; ask the person who looks after this box.", ProblemMissing: "Name, password and registration token are needed.",
	ProblemShort: "The password is too short: at least eight characters, for example three words.",
	ProblemLong:  "The password is too long.", ProblemOften: "Too many tries; wait a minute.", ProblemBox: "The box could not create the account; its status says why.",

	TrustTitle: "Trust this box", Back: "To the start page",
	NoTLS:           "This box offers no encrypted connections. Ask the person who looks after it.",
	NowPlain:        "Right now: unencrypted. This page may have been altered on its way to you.",
	NowOwn:          "Right now: encrypted, with the box's own certificate. If there was no warning, this device trusts the box already and you are done.",
	NowOutside:      "This box has a certificate that devices know by themselves. There is nothing to do. Address:",
	NowOrganisation: "Under its name this box has a certificate that the organisation's devices know; nothing is to be done on them. Other devices take the address below and trust the box as shown here. Issued by",
	NowLapsed: "The certificate from outside is over; the box shows its own until it gets a new one. For that it needs the Internet once, or the organisation. " +
		"Until then the browser warns devices that do not trust the box. The warning then does not say “expired” but “unknown issuer”. With the steps below it goes away.",
	HTTPTitle: "What works without, and what does not",
	HTTPWorks: "Without trust, over http://, apps like FluffyChat do text, pictures, files and end-to-end encryption.",
	HTTPLacks: "What a browser does not do without https://: microphone and camera, location, notifications, and a page that starts without a network. Some apps, on the iPhone above all, take https:// only.",
	HTTPRisk: "Whoever comes over http:// should know: an attacker on the same Wi-Fi can read passwords and sign-ins, alter pages, and pretend to be the box. " +
		"They cannot read messages that are encrypted end to end, as long as the app came from elsewhere. A Wi-Fi with a password that not everybody knows helps; an open one does not.",
	CheckTitle: "Compare first",
	Check: "An attacker could slip you a certificate of their own here, and that one would hold for every site of the world. So before you switch it on, compare the fingerprint that your device shows " +
		"with the one on the screen of the box, or have the person who looks after it read it to you. The one on this page came the same way as the certificate and proves nothing.",
	SHA1:     "Windows shows this one instead (SHA-1):",
	HowTitle: "How to do it",
	Expect:   "The words in the pictures may differ a little on your device. This page has to be open in the browser (Safari, Chrome), not in the window that opens by itself with the Wi-Fi.",
	Done:     "Done? Then this address opens without a warning:", Open: "Open",
	MeansTitle: "What this means",
	MeansName:  "This is how your device lists the box:",
	MeansLimit: "The certificate holds for the names of this box and for addresses in local networks only. Nobody can forge other sites with it. Names:",
	MeansThief: "Its key is in this box and in its encrypted backups, nowhere else. If the box is stolen, the thief can pretend to be it and to be other devices in a local network, nothing more. Then the certificate should be removed from the devices, where it was switched on.",
	MeansEnd:   "It holds until", PEM: "The certificate as text (PEM)",
}
