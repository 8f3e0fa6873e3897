// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"hallig/appliance/wayback"
)

// BackPlan is what going back to the system in the other slot means for the database.
type BackPlan struct {
	// Note is what must stand beside the database before the older system is booted (Leave); zero: nothing, the older system reads the database as it is.
	Note wayback.Note
	// Says tells people, before they decide, where they go and what is lost.
	Says Refusal
}

// PlanBack looks whether there is a way back from the running system to the one in the other slot. database is the path of hallig.db. A *Refusal says why not.
func PlanBack(database string, running, other Manifest) (BackPlan, error) {
	if other.Schema >= running.Schema {
		return BackPlan{Says: *refuse(
			fmt.Sprintf("Die Box geht zurück zu %s. Nichts geht verloren.", other.Version),
			fmt.Sprintf("The box goes back to %s. Nothing is lost.", other.Version))}, nil
	}
	c, ok, err := wayback.For(database, other.Schema)
	if err != nil {
		return BackPlan{}, fmt.Errorf("plan the way back: %w", err)
	}
	if !ok {
		return BackPlan{}, refuse(
			fmt.Sprintf("Der Weg zurück zu %s ist zu: Diese Version kann die Datenbank nicht lesen, und die Kopie von vor dem Update gibt es nicht mehr. Spielen Sie die letzte Sicherung auf einer Ersatzbox ein.", other.Version),
			fmt.Sprintf("The way back to %s is closed: that version cannot read the database, and the copy from before the update is gone. Restore the last backup on a spare box.", other.Version))
	}
	made := c.Made.Local()
	return BackPlan{
		Note: wayback.Note{Act: wayback.Back, Schema: c.Schema},
		Says: *refuse(
			fmt.Sprintf("Die Box geht zurück zu %s und zu ihrem Stand vom %s. Alles, was seitdem auf dieser Box geschrieben wurde, fehlt danach hier; es bleibt als Datei liegen, und andere Boxen und Server behalten, was sie schon haben.", other.Version, made.Format("02.01.2006 15:04")),
			fmt.Sprintf("The box goes back to %s and to how it was on %s. Everything that was written on this box since then will be missing here; it stays as a file, and other boxes and servers keep what they have.", other.Version, made.Format("2006-01-02 15:04"))),
	}, nil
}

// Leave makes the plan's note durable. It comes before Switch: while the newer system is booted it takes the note for settled.
func (p BackPlan) Leave(database string) error {
	if p.Note == (wayback.Note{}) {
		return nil
	}
	return wayback.Leave(database, p.Note)
}

// RoomFor refuses an update before it is written when its first start would find no room to copy the database before it is migrated. free is what the
// disk of the database takes; reserve must stay free.
func RoomFor(database string, running, next Manifest, free, reserve int64) error {
	if next.Schema <= running.Schema {
		return nil
	}
	st, err := os.Stat(database)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("measure the database: %w", err)
	}
	old, err := wayback.Copies(database) // they go before a new one is made
	if err != nil {
		return err
	}
	for _, c := range old {
		free += c.Size
	}
	if need := wayback.Need(st.Size()) + reserve; need > free {
		return refuse(
			fmt.Sprintf("Für dieses Update ist zu wenig Platz: Es braucht vorher eine Kopie der Datenbank, dafür fehlen %d MB. Löschen Sie Dateien oder ziehen Sie mit einer Sicherung auf einen größeren Datenträger um.", (need-free)>>20+1),
			fmt.Sprintf("There is too little room for this update: it needs a copy of the database first, for which %d MB are missing. Delete files, or move to a larger disk by way of a backup.", (need-free)>>20+1))
	}
	return nil
}
