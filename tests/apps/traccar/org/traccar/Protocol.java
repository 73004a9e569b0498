package org.traccar;

public interface Protocol {
    String getName();
}
