# SPDX-License-Identifier: GPL-2.0-or-later
# Stands in for golang-package.mk of OpenWrt's packages feed, after the programs have been compiled.
GO_ARCH_DEPENDS := @(some architectures)
GO_PKG_BUILD_BIN_DIR := $(TOPDIR)/bin
