// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"hallig/appliance/admin"
	"hallig/appliance/socket"
)

// localDoor is where the box answers `hallig VERB`.
func localDoor(dir string) socket.Door { return socket.Door{Dir: dir, Name: "hallig", What: "box"} }

// ErrNoBox is in what Ask and Watch answer when no box runs on the directory.
var ErrNoBox = socket.ErrNobody

// Ask sends one request to the box that runs on dir: in and out are JSON values, nil for none. An error that the box
// answered carries its text.
func Ask(ctx context.Context, dir, method, path string, in, out any) error {
	return localDoor(dir).Ask(ctx, method, path, in, out)
}

// Watch hands the commentary of the box that runs on dir to f until ctx ends, f fails or the box stops.
func Watch(ctx context.Context, dir string, f func(admin.Travel) error) error {
	answer, _, err := localDoor(dir).Open(ctx, "GET", "/watch", nil)
	if err != nil {
		return err
	}
	defer answer.Close()
	for dec := json.NewDecoder(answer); ; {
		var t admin.Travel
		if err := dec.Decode(&t); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read commentary: %w", err)
		}
		if err := f(t); err != nil {
			return err
		}
	}
}

// Courier has the box that runs on dir do what the order says; note is told how far it is.
func Courier(ctx context.Context, dir string, order admin.CourierOrder, note func(admin.CourierStep)) (admin.CourierReport, error) {
	var none admin.CourierReport
	answer, _, err := localDoor(dir).Open(ctx, "POST", "/courier", order)
	if err != nil {
		return none, err
	}
	defer answer.Close()
	for dec := json.NewDecoder(answer); ; {
		var l admin.CourierLine
		switch err := dec.Decode(&l); {
		case err != nil:
			return none, fmt.Errorf("the box went away meanwhile; ask again: %w", err)
		case l.Error != "":
			return none, errors.New(l.Error)
		case l.Report != nil:
			return *l.Report, nil
		case l.Step != nil:
			note(*l.Step)
		}
	}
}
