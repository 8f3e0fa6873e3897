// SPDX-License-Identifier: EUPL-1.2

package vm

// PlugRedirected puts a USB device into a socket that lives outside of QEMU: it is served by whoever holds the unix socket (package usbgadget), in the
// USB network redirection protocol. Unplug pulls it out.
func (m *VM) PlugRedirected(id, socket string) error {
	backend := map[string]any{"type": "socket", "data": map[string]any{"server": false, "reconnect": 1,
		"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}}}}
	if err := m.Do("chardev-add", map[string]any{"id": "line-" + id, "backend": backend}, nil); err != nil {
		return err
	}
	return m.Do("device_add", map[string]any{"driver": "usb-redir", "id": id, "bus": "usb.0", "chardev": "line-" + id}, nil)
}
