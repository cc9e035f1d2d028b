// SPDX-License-Identifier: GPL-2.0-or-later

// Package ipa is the IPA multiplex on a byte stream: frames, connection control (CCM)
// and keep-alive. It knows no RSPRO.
package ipa
