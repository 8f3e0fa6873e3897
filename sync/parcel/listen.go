// SPDX-License-Identifier: EUPL-1.2

package parcel

// Listen makes the memory of somebody who only listens to two boxes, from the nonces of both hellos: one Session decodes what the first box says, the
// other what the second does. What is said over open language (amateur radio) can be read so by everybody, from the beginning of the conversation on.
func (c *Codec) Listen(first, second uint32) (one, two *Session) {
	one, two = c.Session(first, second), c.Session(second, first)
	for i := range one.in {
		a := numbering{of: map[any]uint64{}, names: map[uint64]name{}}
		b := numbering{of: map[any]uint64{}, names: map[uint64]name{}}
		one.in[i], two.out[i] = a, a // the first box's numbers
		one.out[i], two.in[i] = b, b
	}
	two.trail, two.byID = one.trail, one.byID
	return one, two
}
