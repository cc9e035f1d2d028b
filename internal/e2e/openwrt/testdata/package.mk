# SPDX-License-Identifier: GPL-2.0-or-later
# Stands in for OpenWrt's package.mk: each package has a target show-NAME, which prints its fields, and install-NAME,
# which installs it below DEST. The sources are those of this tree.
PKG_BUILD_DIR := ../../..

define BuildPackage
$(eval SECTION :=)$(eval DEPENDS :=)$(eval TITLE :=)
$(eval $(Package/$(1)))
.PHONY: show-$(1) install-$(1)
show-$(1):
	@echo 'title: $(TITLE)'
	@echo 'section: $(SECTION)/$(CATEGORY)/$(SUBMENU)'
	@echo 'depends: $(DEPENDS)'
	@echo 'description: $(if $(Package/$(1)/description),yes)'
	@echo 'conffiles: $(strip $(Package/$(1)/conffiles))'
install-$(1):
$(call Package/$(1)/install,$(DEST))
endef

show:
	@echo '$(PKG_NAME) $(PKG_VERSION) $(PKG_SOURCE) $(PKG_LICENSE)'
	@echo '$(GO_PKG_BUILD_PKG)'
