package org.traccar.config;

import java.util.List;

public class PortConfigSuffix extends ConfigSuffix<Integer> {
    PortConfigSuffix(String key, List<KeyType> types) {
        super(key, types, null);
    }

    @Override
    public ConfigKey<Integer> withPrefix(String protocol) {
        return new IntegerConfigKey(protocol + keySuffix, types, 0);
    }
}
