// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"gopkg.in/yaml.v3"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/room"
)

// Appservice is the registration of an application service: a program that acts for users of its own.
// https://spec.matrix.org/v1.13/application-service-api/#registration
type Appservice struct {
	ID              string `yaml:"id"`
	URL             string `yaml:"url"`
	ASToken         string `yaml:"as_token"`
	HSToken         string `yaml:"hs_token"`
	SenderLocalpart string `yaml:"sender_localpart"`
	Namespaces      struct {
		Users   []Namespace `yaml:"users"`
		Aliases []Namespace `yaml:"aliases"`
		Rooms   []Namespace `yaml:"rooms"`
	} `yaml:"namespaces"`
}

// Namespace is a set of names, its own or shared.
type Namespace struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`

	re *regexp.Regexp
}

// ParseAppservice reads a registration file. Fields that we do not know are passed over, as bridges bring their own.
func ParseAppservice(raw []byte) (Appservice, error) {
	var a Appservice
	if err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(&a); err != nil {
		return a, fmt.Errorf("read application service registration: %w", err)
	}
	if a.ID == "" || a.ASToken == "" || a.HSToken == "" || a.SenderLocalpart == "" {
		return a, errors.New("application service registration: id, as_token, hs_token and sender_localpart are needed")
	}
	for _, ns := range [][]Namespace{a.Namespaces.Users, a.Namespaces.Aliases, a.Namespaces.Rooms} {
		for i := range ns {
			re, err := regexp.Compile("^(?:" + ns[i].Regex + ")$")
			if err != nil {
				return a, fmt.Errorf("application service %s: namespace: %w", a.ID, err)
			}
			ns[i].re = re
		}
	}
	return a, nil
}

func matches(ns []Namespace, name string, exclusiveOnly bool) bool {
	for _, n := range ns {
		if n.re != nil && (n.Exclusive || !exclusiveOnly) && n.re.MatchString(name) {
			return true
		}
	}
	return false
}

// appservice finds the service of a token.
func (h *Handler) appservice(token string) *Appservice {
	if token == "" {
		return nil
	}
	var found *Appservice
	for i := range h.Appservices {
		if subtle.ConstantTimeCompare([]byte(h.Appservices[i].ASToken), []byte(token)) == 1 {
			found = &h.Appservices[i]
		}
	}
	return found
}

func (h *Handler) serviceUser(s *Appservice) event.UserID { return h.userID(s.SenderLocalpart) }

// exclusive says whether a user id is reserved for an application service.
func (h *Handler) exclusive(user event.UserID) bool {
	for i := range h.Appservices {
		s := &h.Appservices[i]
		if user == h.serviceUser(s) || matches(s.Namespaces.Users, string(user), true) {
			return true
		}
	}
	return false
}

// asAppservice lets a service act as itself or, with ?user_id=, as one of its users.
// https://spec.matrix.org/v1.13/application-service-api/#identity-assertion
func (h *Handler) asAppservice(ctx context.Context, c *call, s *Appservice) error {
	user := h.serviceUser(s)
	if as := event.UserID(c.query("user_id")); as != "" && as != user {
		if !h.Accounts.Local(as) || !matches(s.Namespaces.Users, string(as), false) {
			return forbidden("this user does not belong to the application service")
		}
		user = as
	}
	c.service = s
	c.session = account.Session{User: user, Device: c.query("device_id")}
	if user == h.serviceUser(s) {
		return h.ensureAccount(ctx, user)
	}
	if _, err := h.Accounts.User(ctx, user); err != nil {
		return forbidden("the application service has not registered this user")
	}
	return nil
}

// ensureAccount makes the service's own account on its first request.
func (h *Handler) ensureAccount(ctx context.Context, user event.UserID) error {
	if _, err := h.Accounts.User(ctx, user); err == nil {
		return nil
	}
	_, err := h.Accounts.Register(ctx, account.RegisterRequest{Username: user.Localpart(), InhibitLogin: true})
	var e *room.Error
	if errors.As(err, &e) && e.Code == "M_USER_IN_USE" { // a parallel request was faster
		return nil
	}
	return err
}

func (h *Handler) registerAppservice(ctx context.Context, c *call, req registerRequest) (any, error) {
	s := h.appservice(bearer(c.r))
	if s == nil {
		return nil, refuse(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "this is not the token of an application service")
	}
	if req.Username == "" {
		return nil, missing("username")
	}
	user := h.userID(req.Username)
	if user != h.serviceUser(s) && !matches(s.Namespaces.Users, string(user), false) {
		return nil, refuse(http.StatusBadRequest, "M_EXCLUSIVE", "this name does not belong to the application service")
	}
	session, err := h.Accounts.Register(ctx, account.RegisterRequest{
		Username: req.Username, Password: req.Password, Device: req.Device, DeviceName: req.DeviceName, InhibitLogin: req.InhibitLogin, Refresh: req.Refresh,
	})
	if err != nil {
		return nil, err
	}
	return h.opened(session), nil
}

func (h *Handler) loginAppservice(ctx context.Context, c *call, name, device, deviceName string) (any, error) {
	token := bearer(c.r)
	if token == "" {
		return nil, refuse(http.StatusUnauthorized, "M_MISSING_TOKEN", "the application service's token is needed")
	}
	s := h.appservice(token)
	if s == nil {
		return nil, refuse(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "this is not the token of an application service")
	}
	user := h.userID(name)
	if user != h.serviceUser(s) && !matches(s.Namespaces.Users, string(user), false) {
		return nil, refuse(http.StatusForbidden, "M_EXCLUSIVE", "this user does not belong to the application service")
	}
	if _, err := h.Accounts.User(ctx, user); err != nil {
		return nil, forbidden("there is no such user")
	}
	session, err := h.Accounts.LoginTrusted(ctx, user, device, deviceName, false)
	if err != nil {
		return nil, err
	}
	return h.opened(session), nil
}
