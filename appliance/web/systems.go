// SPDX-License-Identifier: EUPL-1.2

package web

// systems tells, per operating system, how to trust the authority of that name. The words in the drawings are those of the systems.
func systems(german bool, name string) []system {
	if german {
		return inGerman(name)
	}
	return inEnglish(name)
}

func inGerman(name string) []system {
	return []system{
		{
			ID: "ios", Name: "iPhone und iPad", Open: true, File: "/hallig.mobileconfig", FileText: "Profil laden",
			Steps: []step{
				{"Diese Seite in Safari öffnen und oben auf „Profil laden“ tippen. Safari fragt nach: „Zulassen“.",
					dialog("Safari fragt, ob das Profil geladen werden darf", true, row{kind: words, text: "Diese Website versucht, ein Konfigurationsprofil zu laden. Möchtest du dies zulassen?"}, row{kind: pair, text: "Ignorieren|Zulassen", mark: true})},
				{"Die App „Einstellungen“ öffnen. Ganz oben steht „Profil geladen“: antippen.",
					dialog("Einstellungen mit der Zeile Profil geladen", true, row{kind: title, text: "Einstellungen"}, row{kind: item, text: "Profil geladen", mark: true}, row{kind: item, text: "WLAN"}, row{kind: item, text: "Allgemein"})},
				{"Erst „Mehr Details“ und dort das Zertifikat antippen: Der Fingerabdruck (SHA-256) muss der vom Bildschirm der Box sein. Dann zurück, „Installieren“, den Code des Geräts eingeben, die Warnung mit „Installieren“ bestätigen.",
					dialog("Das Profil", true, row{kind: title, text: "Profil installieren"}, row{kind: plain, text: name}, row{kind: plain, text: "Nicht signiert"}, row{kind: item, text: "Mehr Details", mark: true}, row{kind: button, text: "Installieren"})},
				{"Einstellungen, Allgemein, Info, ganz unten „Zertifikatsvertrauenseinstellungen“: den Schalter bei der Box einschalten und „Weiter“. Ohne diesen letzten Schritt gilt das Zertifikat nicht.",
					dialog("Zertifikatsvertrauenseinstellungen", true, row{kind: title, text: "Zertifikatsvertrauen"}, row{kind: words, text: "Volles Vertrauen für Root-Zertifikate aktivieren"}, row{kind: on, text: name, mark: true})},
			},
			Note: "Entfernen: Einstellungen, Allgemein, VPN und Geräteverwaltung, das Profil antippen, „Profil entfernen“.",
		},
		{
			ID: "android", Name: "Android (ab 11)", File: "/hallig.crt", FileText: "Zertifikat laden",
			Steps: []step{
				{"In Chrome „Zertifikat laden“ antippen. Die Datei hallig.crt liegt dann unter „Downloads“. Öffnen hilft nicht: Android installiert es nur aus den Einstellungen.",
					dialog("Die geladene Datei", true, row{kind: plain, text: "hallig.crt"}, row{kind: words, text: "Download abgeschlossen"})},
				{"In den Einstellungen nach „CA-Zertifikat“ suchen. Der Weg heißt meist: Sicherheit und Datenschutz, Weitere Sicherheitseinstellungen, Verschlüsselung und Anmeldedaten, Zertifikat installieren.",
					dialog("Zertifikat installieren", true, row{kind: title, text: "Zertifikat installieren"}, row{kind: item, text: "CA-Zertifikat", mark: true}, row{kind: item, text: "VPN- und App-Nutzerzertifikat"}, row{kind: item, text: "WLAN-Zertifikat"})},
				{"Android warnt, das Netz könne überwacht werden. Das ist die Warnung vor fremden Zertifikaten, und hier gewollt: „Trotzdem installieren“, PIN eingeben, hallig.crt auswählen.",
					dialog("Die Warnung", true, row{kind: title, text: "Deine Daten sind nicht privat"}, row{kind: words, text: "Bei Installation dieses Zertifikats kann der Inhaber auf deine Daten zugreifen."}, row{kind: pair, text: "Abbrechen|Trotzdem installieren", mark: true})},
				{"Vergleichen: Einstellungen, „Vertrauenswürdige Anmeldedaten“, Reiter „Nutzer“, die Box antippen. Der SHA-256-Fingerabdruck muss der vom Bildschirm der Box sein; sonst „Entfernen“.",
					dialog("Vertrauenswürdige Anmeldedaten", true, row{kind: title, text: "Nutzer"}, row{kind: on, text: name, mark: true})},
			},
			Note: "Danach vertraut Chrome der Box. Firefox braucht zusätzlich: Einstellungen, Über Firefox, fünfmal auf das Logo tippen, zurück, „Geheime Einstellungen“, „CA-Zertifikate von Drittanbietern verwenden“. Matrix-Apps entscheiden selbst, ob sie solche Zertifikate nehmen; Element Classic nimmt sie nicht aus den Einstellungen: Fragt eine App selbst nach, den Fingerabdruck vergleichen, sonst bleibt http://. Element X arbeitet mit dieser Box noch nicht.",
		},
		{
			ID: "windows", Name: "Windows", File: "/hallig.crt", FileText: "Zertifikat laden",
			Steps: []step{
				{"Die geladene Datei hallig.crt öffnen. Im Fenster „Zertifikat installieren…“, dann „Aktueller Benutzer“.",
					dialog("Das Zertifikat", false, row{kind: title, text: "Zertifikat"}, row{kind: words, text: "Ausgestellt für: " + name}, row{kind: button, text: "Zertifikat installieren…", mark: true})},
				{"„Alle Zertifikate in folgendem Speicher speichern“, „Durchsuchen“, „Vertrauenswürdige Stammzertifizierungsstellen“, „Weiter“, „Fertig stellen“.",
					dialog("Der Speicher", false, row{kind: title, text: "Zertifikatspeicher auswählen"}, row{kind: plain, text: "Eigene Zertifikate"}, row{kind: plain, text: "Vertrauenswürdige Stammzertifizierungsstellen", mark: true}, row{kind: plain, text: "Organisationsvertrauen"})},
				{"Windows zeigt den Fingerabdruck (SHA-1). Nur wenn er mit dem der Box übereinstimmt: „Ja“.",
					dialog("Sicherheitswarnung", false, row{kind: title, text: "Sicherheitswarnung"}, row{kind: words, text: "Möchten Sie dieses Zertifikat installieren? Fingerabdruck (sha1): …"}, row{kind: pair, text: "Nein|Ja", mark: true})},
			},
			Note: "Gilt für Edge, Chrome und Element Desktop. Firefox: siehe Linux und Firefox. Entfernen: certmgr.msc, Vertrauenswürdige Stammzertifizierungsstellen.",
		},
		{
			ID: "macos", Name: "Mac", File: "/hallig.crt", FileText: "Zertifikat laden",
			Steps: []step{
				{"Die geladene Datei hallig.crt öffnen. Die „Schlüsselbundverwaltung“ nimmt sie unter „Anmeldung“ auf.",
					dialog("Schlüsselbund", false, row{kind: title, text: "Schlüsselbund: Anmeldung"}, row{kind: plain, text: name, mark: true})},
				{"Doppelklick auf die Box. Unter „Details“ den Fingerabdruck vergleichen, dann „Vertrauen“ aufklappen und „Immer vertrauen“ wählen. Fenster schließen, Passwort eingeben.",
					dialog("Vertrauen", false, row{kind: title, text: name}, row{kind: words, text: "▾ Vertrauen"}, row{kind: words, text: "Bei Verwendung dieses Zertifikats:"}, row{kind: field, text: "Immer vertrauen", mark: true})},
			},
			Note: "Entfernen: in der Schlüsselbundverwaltung löschen.",
		},
		{
			ID: "linux", Name: "Linux und Firefox", File: "/hallig.crt", FileText: "Zertifikat laden",
			Steps: []step{
				{"Firefox (auf jedem System): Einstellungen, Datenschutz und Sicherheit, „Zertifikate anzeigen“, Reiter „Zertifizierungsstellen“, „Importieren“, hallig.crt. Ansehen, vergleichen, dann das Häkchen setzen.",
					dialog("Firefox", false, row{kind: title, text: "Zertifikat herunterladen"}, row{kind: plain, text: "☑ Dieser CA vertrauen, um Websites zu identifizieren", mark: true}, row{kind: pair, text: "Ansehen|OK"})},
				{"Chromium und Chrome: Einstellungen, Datenschutz und Sicherheit, Sicherheit, „Zertifikate verwalten“, Eigene, „Vertrauenswürdige Zertifikate“, „Importieren“.",
					dialog("Chromium", false, row{kind: title, text: "Zertifikatmanager"}, row{kind: plain, text: "Vertrauenswürdige Zertifikate"}, row{kind: button, text: "Importieren", mark: true})},
			},
			Note: "Für Programme wie curl oder Nheko unter Debian und Ubuntu: hallig.pem (Verweis darunter) als /usr/local/share/ca-certificates/hallig.crt ablegen und update-ca-certificates ausführen. Vergleichen: openssl x509 -in hallig.pem -noout -fingerprint -sha256.",
		},
	}
}

func inEnglish(name string) []system {
	return []system{
		{
			ID: "ios", Name: "iPhone and iPad", Open: true, File: "/hallig.mobileconfig", FileText: "Download profile",
			Steps: []step{
				{"Open this page in Safari and tap “Download profile” above. Safari asks: “Allow”.",
					dialog("Safari asks whether the profile may be downloaded", true, row{kind: words, text: "This website is trying to download a configuration profile. Do you want to allow this?"}, row{kind: pair, text: "Ignore|Allow", mark: true})},
				{"Open the Settings app. At the top it says “Profile Downloaded”: tap it.",
					dialog("Settings with the line Profile Downloaded", true, row{kind: title, text: "Settings"}, row{kind: item, text: "Profile Downloaded", mark: true}, row{kind: item, text: "Wi-Fi"}, row{kind: item, text: "General"})},
				{"First tap “More Details” and the certificate there: the fingerprint (SHA-256) must be the one on the screen of the box. Then back, “Install”, enter the passcode of the device, and confirm the warning with “Install”.",
					dialog("The profile", true, row{kind: title, text: "Install Profile"}, row{kind: plain, text: name}, row{kind: plain, text: "Not Signed"}, row{kind: item, text: "More Details", mark: true}, row{kind: button, text: "Install"})},
				{"Settings, General, About, at the very end “Certificate Trust Settings”: switch the box on, “Continue”. Without this last step the certificate does not count.",
					dialog("Certificate Trust Settings", true, row{kind: title, text: "Certificate Trust Settings"}, row{kind: words, text: "Enable full trust for root certificates"}, row{kind: on, text: name, mark: true})},
			},
			Note: "To remove it: Settings, General, VPN & Device Management, tap the profile, “Remove Profile”.",
		},
		{
			ID: "android", Name: "Android (11 and later)", File: "/hallig.crt", FileText: "Download certificate",
			Steps: []step{
				{"In Chrome tap “Download certificate”. The file hallig.crt is under “Downloads” then. Opening it does not help: Android installs it from its settings only.",
					dialog("The file", true, row{kind: plain, text: "hallig.crt"}, row{kind: words, text: "Download complete"})},
				{"Search the settings for “CA certificate”. The way is mostly called: Security & privacy, More security & privacy, Encryption & credentials, Install a certificate.",
					dialog("Install a certificate", true, row{kind: title, text: "Install a certificate"}, row{kind: item, text: "CA certificate", mark: true}, row{kind: item, text: "VPN & app user certificate"}, row{kind: item, text: "Wi-Fi certificate"})},
				{"Android warns that the network may be monitored. That is its warning of other people's certificates, and meant to be here: “Install anyway”, enter the PIN, choose hallig.crt.",
					dialog("The warning", true, row{kind: title, text: "Your data won't be private"}, row{kind: words, text: "By installing this certificate you may allow its owner to access your data."}, row{kind: pair, text: "Don't install|Install anyway", mark: true})},
				{"Compare: Settings, “Trusted credentials”, tab “User”, tap the box. The SHA-256 fingerprint must be the one on the screen of the box; otherwise “Remove”.",
					dialog("Trusted credentials", true, row{kind: title, text: "User"}, row{kind: on, text: name, mark: true})},
			},
			Note: "Then Chrome trusts the box. Firefox needs this too: Settings, About Firefox, tap the logo five times, back, “Secret Settings”, “Use third party CA certificates”. Matrix apps decide for themselves whether they take such certificates; Element Classic does not take them from the settings: if an app asks by itself, compare the fingerprint; otherwise http:// remains. Element X does not work with this box yet.",
		},
		{
			ID: "windows", Name: "Windows", File: "/hallig.crt", FileText: "Download certificate",
			Steps: []step{
				{"Open the downloaded file hallig.crt. In the window, “Install Certificate…”, then “Current User”.",
					dialog("The certificate", false, row{kind: title, text: "Certificate"}, row{kind: words, text: "Issued to: " + name}, row{kind: button, text: "Install Certificate…", mark: true})},
				{"“Place all certificates in the following store”, “Browse”, “Trusted Root Certification Authorities”, “Next”, “Finish”.",
					dialog("The store", false, row{kind: title, text: "Select Certificate Store"}, row{kind: plain, text: "Personal"}, row{kind: plain, text: "Trusted Root Certification Authorities", mark: true}, row{kind: plain, text: "Enterprise Trust"})},
				{"Windows shows the fingerprint (SHA-1). Only if it is the same as that of the box: “Yes”.",
					dialog("Security warning", false, row{kind: title, text: "Security Warning"}, row{kind: words, text: "Do you want to install this certificate? Thumbprint (sha1): …"}, row{kind: pair, text: "No|Yes", mark: true})},
			},
			Note: "Counts for Edge, Chrome and Element Desktop. Firefox: see Linux and Firefox. To remove it: certmgr.msc, Trusted Root Certification Authorities.",
		},
		{
			ID: "macos", Name: "Mac", File: "/hallig.crt", FileText: "Download certificate",
			Steps: []step{
				{"Open the downloaded file hallig.crt. “Keychain Access” takes it into “login”.",
					dialog("Keychain", false, row{kind: title, text: "Keychain: login"}, row{kind: plain, text: name, mark: true})},
				{"Double-click the box. Compare the fingerprint under “Details”, then open “Trust” and choose “Always Trust”. Close the window, enter your password.",
					dialog("Trust", false, row{kind: title, text: name}, row{kind: words, text: "▾ Trust"}, row{kind: words, text: "When using this certificate:"}, row{kind: field, text: "Always Trust", mark: true})},
			},
			Note: "To remove it: delete it in Keychain Access.",
		},
		{
			ID: "linux", Name: "Linux and Firefox", File: "/hallig.crt", FileText: "Download certificate",
			Steps: []step{
				{"Firefox (on every system): Settings, Privacy & Security, “View Certificates”, tab “Authorities”, “Import”, hallig.crt. View it, compare, then tick the box.",
					dialog("Firefox", false, row{kind: title, text: "Downloading Certificate"}, row{kind: plain, text: "☑ Trust this CA to identify websites", mark: true}, row{kind: pair, text: "View|OK"})},
				{"Chromium and Chrome: Settings, Privacy and security, Security, “Manage certificates”, Custom, “Trusted Certificates”, “Import”.",
					dialog("Chromium", false, row{kind: title, text: "Certificate Manager"}, row{kind: plain, text: "Trusted Certificates"}, row{kind: button, text: "Import", mark: true})},
			},
			Note: "For programs like curl or Nheko on Debian and Ubuntu: store hallig.pem (link below) as /usr/local/share/ca-certificates/hallig.crt and run update-ca-certificates. To compare: openssl x509 -in hallig.pem -noout -fingerprint -sha256.",
		},
	}
}
