// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"hallig/radio"
)

var _ Forecaster = (*radio.Port)(nil)
