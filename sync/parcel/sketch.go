// SPDX-License-Identifier: EUPL-1.2

package parcel

// FeatureSketch: the box compares what it holds with others (recon.Audit) and finds differences by sketches.
const FeatureSketch uint32 = 1 << 4

// KindSketch compares what two boxes hold.
const KindSketch Kind = 14

// Sketch carries what package recon writes to compare the events of rooms: an audit, a part of a sketch, what was found.
type Sketch struct {
	Body []byte
}

// Kind is KindSketch.
func (*Sketch) Kind() Kind { return KindSketch }
