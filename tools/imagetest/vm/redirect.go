// SPDX-License-Identifier: EUPL-1.2

package vm

// RedirectUSB leads a USB socket of the machine out of QEMU to a unix socket, in the USB network redirection protocol. It is empty until whoever holds the
// unix socket accepts QEMU's connection and plugs a device in (package usbgadget); closing that pulls it out, and QEMU connects anew.
func (m *VM) RedirectUSB(id, socket string) error {
	backend := map[string]any{"type": "socket", "data": map[string]any{"server": false, "reconnect": 1,
		"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}}}}
	if err := m.Do("chardev-add", map[string]any{"id": "line-" + id, "backend": backend}, nil); err != nil {
		return err
	}
	return m.Do("device_add", map[string]any{"driver": "usb-redir", "id": id, "bus": "usb.0", "chardev": "line-" + id}, nil)
}
