// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"log/slog"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"hallig/appliance/herald"
)

// TestNextPerson: the page on which the first administrator makes an account shows the code for the second person; theirs shows none.
func TestNextPerson(t *testing.T) {
	b, err := Open(t.Context(), Config{Data: t.TempDir(), ServerName: "box.example", P2P: P2PConfig{Off: true}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	site := b.pages()
	code := regexp.MustCompile(`/account</code> <code>([^<]+)</code>`)
	signUp := func(name, token string) (page, next string) {
		t.Helper()
		form := url.Values{"name": {name}, "password": {"sturmflut"}, "again": {"sturmflut"}, "code": {token}}
		r := httptest.NewRequest("POST", "http://hallig.local/account", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		page = w.Body.String()
		if w.Code != 200 || !strings.Contains(page, "@"+name+":box.example") {
			t.Fatalf("%s got no account: %d\n%s", name, w.Code, page)
		}
		if m := code.FindStringSubmatch(page); m != nil {
			next = m[1]
		}
		return page, next
	}
	_, token := signUp("antje", b.Screen().EnrolCode)
	if token == "" {
		t.Fatal("no code for the next person")
	}
	if _, again := signUp("boy", token); again != "" {
		t.Errorf("somebody who does not administer the box may hand out %q", again)
	}
	if u, err := b.accounts.User(t.Context(), "@boy:box.example"); err != nil || u.Admin {
		t.Errorf("the next person: %+v, %v; want no administrator", u, err)
	}
	raw, err := b.accounts.AccountData(t.Context(), "@boy:box.example", "", herald.TypeLanguage)
	if err != nil || string(raw) != `{"language":"en"}` {
		t.Errorf("boy made the account on the English page; the box writes to him by %s (%v)", raw, err)
	}
}
