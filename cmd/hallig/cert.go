// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
)

// certVerb shows the certificate of the TLS port, and gets one from outside.
func certVerb(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("cert", errOut)
	asJSON := f.Bool("json", false, "for scripts")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	switch {
	case len(words) == 0:
		return showCertificate(ctx, *dir, *asJSON, out)
	case len(words) == 1 && words[0] == "csr":
		var answer struct{ PEM string }
		if err := appliance.Ask(ctx, *dir, "POST", "/cert/request", struct{}{}, &answer); err != nil {
			return err
		}
		fmt.Fprintln(errOut, "The key stays on the box. Have this signed, and give back the answer with: hallig cert install FILE")
		_, err := io.WriteString(out, answer.PEM)
		return err
	case len(words) == 2 && words[0] == "install":
		return installCertificate(ctx, *dir, words[1], *asJSON, out)
	}
	return fmt.Errorf("%w: hallig cert, hallig cert csr, or hallig cert install FILE (- is standard input)", errUsage)
}

func installCertificate(ctx context.Context, dir, file string, asJSON bool, out io.Writer) error {
	read := func() ([]byte, error) { return os.ReadFile(file) }
	if file == "-" {
		read = func() ([]byte, error) { return io.ReadAll(os.Stdin) }
	}
	raw, err := read()
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	if !strings.Contains(string(raw), "-----BEGIN") {
		return fmt.Errorf("%s is not in PEM form; convert it with: openssl x509 -inform der -in %s -out box.pem", file, file)
	}
	var s admin.Certificate
	if err := appliance.Ask(ctx, dir, "POST", "/cert/install", map[string]string{"PEM": string(raw)}, &s); err != nil {
		return err
	}
	return printCertificate(s, asJSON, out)
}

func showCertificate(ctx context.Context, dir string, asJSON bool, out io.Writer) error {
	var s admin.Status
	if err := appliance.Ask(ctx, dir, "GET", "/status", nil, &s); err != nil {
		return err
	}
	if s.Certificate == nil {
		return fmt.Errorf("the box serves no TLS to clients; start it with: hallig serve --data %s --tls-listen 0.0.0.0:8443", dir)
	}
	return printCertificate(*s.Certificate, asJSON, out)
}

func printCertificate(s admin.Certificate, asJSON bool, out io.Writer) error {
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	source := "the box's own authority (phones have to trust it once: page /trust of the box)"
	if s.Source == "outside" {
		source = "from outside, signed by " + s.Issuer
	}
	fmt.Fprintf(out, "%s\n  valid until %s\n  for %s\n", source, s.Expires.Format(time.DateOnly), strings.Join(s.Names, ", "))
	fmt.Fprintf(out, "  own authority, until %s, SHA-256:\n    %s\n    %s\n    %s\n    %s\n", s.Authority.Format(time.DateOnly),
		s.Fingerprint[:23], s.Fingerprint[24:47], s.Fingerprint[48:71], s.Fingerprint[72:])
	if !s.Lapsed.IsZero() {
		fmt.Fprintf(out, "  the certificate from outside ended on %s; ask for a new one with: hallig cert csr\n", s.Lapsed.Format(time.DateOnly))
	}
	if len(s.Uncovered) > 0 {
		fmt.Fprintf(out, "  not covered: %s\n", strings.Join(s.Uncovered, ", "))
	}
	if s.Trouble != "" {
		fmt.Fprintf(out, "  last try to get one from outside: %s\n", s.Trouble)
	}
	return nil
}
