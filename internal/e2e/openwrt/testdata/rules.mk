# SPDX-License-Identifier: GPL-2.0-or-later
# Stands in for OpenWrt's rules.mk: what a package's Makefile may use of it.
INCLUDE_DIR := $(TOPDIR)/include
INSTALL_DIR := install -d -m 755
INSTALL_BIN := install -m 755
INSTALL_DATA := install -m 644
INSTALL_CONF := install -m 600
